/* What the sink remembers of objects and uploads, in memory. The caller holds a lock. */
#ifndef STORE_H
#define STORE_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define STORE_UPLOADS 1024

struct piece {
    uint64_t size, crc;
    char etag[64];
    unsigned char md5[16];
    int is_encrypted; /* its ETag is no MD5 */
};

struct object {
    struct object *next;
    char *key, *metadata;
    struct piece piece;
    time_t modified;
};

struct part {
    int number;
    struct piece piece;
};

struct upload {
    struct upload *next;
    uint64_t id;
    char *key, *metadata;
    struct part *parts; /* by number */
    int count, capacity;
    time_t begun;
};

extern struct upload *store_uploads[STORE_UPLOADS];
extern uint64_t store_object_count, store_upload_count;

/* Where an object or an upload is, or would be, in its list. A key begins with its bucket. */
struct object **store_object(const char *key);
struct upload **store_upload(const char *id);

void store_put(const char *key, const char *metadata, const struct piece *piece);
struct upload *store_begin(const char *key, const char *metadata);
void store_part(struct upload *upload, const struct part *part);
struct part *store_find_part(struct upload *upload, int number);
void store_forget_object(struct object **slot);
void store_forget_upload(struct upload **slot);
void store_clear(void);

/* The objects whose keys begin with a prefix, by key; the caller frees the array. */
struct object **store_sorted(const char *prefix, size_t *count);

#endif
