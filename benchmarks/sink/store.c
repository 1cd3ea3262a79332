#include "store.h"

#include "crc64nvme.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS (1 << 17)

struct upload *store_uploads[STORE_UPLOADS];
uint64_t store_object_count, store_upload_count;

static struct object *objects[BUCKETS];
static uint64_t next_id = 1;

struct object **store_object(const char *key)
{
    struct object **slot = &objects[crc64nvme(0, key, strlen(key)) % BUCKETS];
    while (*slot && strcmp((*slot)->key, key))
        slot = &(*slot)->next;
    return slot;
}

struct upload **store_upload(const char *id)
{
    uint64_t wanted = strtoull(id, NULL, 16);
    struct upload **slot = &store_uploads[wanted % STORE_UPLOADS];
    while (*slot && (*slot)->id != wanted)
        slot = &(*slot)->next;
    return slot;
}

static char *copy(const char *string)
{
    char *made = strdup(string ? string : "");
    if (!made)
        abort();
    return made;
}

void store_forget_object(struct object **slot)
{
    struct object *object = *slot;
    *slot = object->next;
    free(object->key), free(object->metadata), free(object);
    store_object_count--;
}

void store_forget_upload(struct upload **slot)
{
    struct upload *upload = *slot;
    *slot = upload->next;
    free(upload->key), free(upload->metadata), free(upload->parts), free(upload);
    store_upload_count--;
}

void store_put(const char *key, const char *metadata, const struct piece *piece)
{
    struct object **slot = store_object(key);
    if (*slot)
        store_forget_object(slot);
    struct object *object = calloc(1, sizeof *object);
    if (!object)
        abort();
    *object = (struct object) { *slot, copy(key), copy(metadata), *piece, time(NULL) };
    *slot = object;
    store_object_count++;
}

struct upload *store_begin(const char *key, const char *metadata)
{
    struct upload *upload = calloc(1, sizeof *upload);
    if (!upload)
        abort();
    *upload = (struct upload) { .id = next_id++, .key = copy(key), .metadata = copy(metadata), .begun = time(NULL) };
    upload->next = store_uploads[upload->id % STORE_UPLOADS];
    store_uploads[upload->id % STORE_UPLOADS] = upload;
    store_upload_count++;
    return upload;
}

struct part *store_find_part(struct upload *upload, int number)
{
    int low = 0, high = upload->count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (upload->parts[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < upload->count && upload->parts[low].number == number ? &upload->parts[low] : NULL;
}

void store_part(struct upload *upload, const struct part *part)
{
    struct part *present = store_find_part(upload, part->number);
    if (present) {
        *present = *part;
    } else {
        if (upload->count == upload->capacity) {
            upload->capacity = upload->capacity * 2 + 16;
            upload->parts = realloc(upload->parts, upload->capacity * sizeof *upload->parts);
            if (!upload->parts)
                abort();
        }
        int at = upload->count++;
        for (; at && upload->parts[at - 1].number > part->number; at--)
            upload->parts[at] = upload->parts[at - 1];
        upload->parts[at] = *part;
    }
}

static int by_key(const void *a, const void *b)
{
    return strcmp((*(struct object *const *)a)->key, (*(struct object *const *)b)->key);
}

struct object **store_sorted(const char *prefix, size_t *count)
{
    struct object **found = malloc((store_object_count + 1) * sizeof *found);
    if (!found)
        abort();
    *count = 0;
    for (int i = 0; i < BUCKETS; i++)
        for (struct object *object = objects[i]; object; object = object->next)
            if (!strncmp(object->key, prefix, strlen(prefix)))
                found[(*count)++] = object;
    qsort(found, *count, sizeof *found, by_key);
    return found;
}

void store_clear(void)
{
    for (int i = 0; i < BUCKETS; i++)
        while (objects[i])
            store_forget_object(&objects[i]);
    for (int i = 0; i < STORE_UPLOADS; i++)
        while (store_uploads[i])
            store_forget_upload(&store_uploads[i]);
}
