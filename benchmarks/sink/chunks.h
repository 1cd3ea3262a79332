/* Chunked bodies: Transfer-Encoding: chunked (RFC 9112, 7.1) and aws-chunked
 * (https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html). */
#ifndef CHUNKS_H
#define CHUNKS_H

#include <stddef.h>
#include <stdint.h>

struct chunks {
    enum { SIZE_LINE, DATA, DATA_END, TRAILER, ENDED } state;
    uint64_t left;
    size_t length;
    char line[1024];
    int (*on_data)(void *context, const char *bytes, size_t length);
    void (*on_trailer)(void *context, char *line);
    void *context;
};

/* Decode some bytes. Returns how many of them belong to the body, or -1 if they are malformed. */
long chunks_decode(struct chunks *chunks, const char *bytes, size_t length);

#endif
