#include "chunks.h"

#include <stdlib.h>
#include <string.h>

/* A line has ended. Returns 0 if it is malformed. */
static int take_line(struct chunks *chunks)
{
    char *end;
    if (chunks->length && chunks->line[chunks->length - 1] == '\r')
        chunks->length--;
    chunks->line[chunks->length] = 0;
    switch (chunks->state) {
    case SIZE_LINE:
        chunks->left = strtoull(chunks->line, &end, 16);
        if (end == chunks->line || (*end && *end != ';'))
            return 0;
        chunks->state = chunks->left ? DATA : TRAILER;
        break;
    case DATA_END:
        if (chunks->length)
            return 0;
        chunks->state = SIZE_LINE;
        break;
    default:
        if (!chunks->length)
            chunks->state = ENDED;
        else if (chunks->on_trailer)
            chunks->on_trailer(chunks->context, chunks->line);
    }
    chunks->length = 0;
    return 1;
}

long chunks_decode(struct chunks *chunks, const char *bytes, size_t length)
{
    size_t used = 0;
    while (used < length && chunks->state != ENDED) {
        if (chunks->state == DATA) {
            size_t taken = length - used < chunks->left ? length - used : chunks->left;
            if (!chunks->on_data(chunks->context, bytes + used, taken))
                return -1;
            used += taken;
            if (!(chunks->left -= taken))
                chunks->state = DATA_END;
            continue;
        }
        const char *end = memchr(bytes + used, '\n', length - used);
        size_t taken = (end ? (size_t)(end - bytes) : length) - used;
        if (chunks->length + taken >= sizeof chunks->line)
            return -1;
        memcpy(chunks->line + chunks->length, bytes + used, taken);
        chunks->length += taken;
        used += taken + (end != NULL);
        if (end && !take_line(chunks))
            return -1;
    }
    return (long)used;
}
