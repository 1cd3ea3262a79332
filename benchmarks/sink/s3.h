/* The S3 requests that the sink answers, and what it remembers of objects: all but their bodies. */
#ifndef S3_H
#define S3_H

#include <openssl/evp.h>
#include <stddef.h>
#include <stdint.h>

/* Text that grows. */
struct text {
    char *bytes;
    size_t length, capacity;
};

void text_add(struct text *text, const void *bytes, size_t length);
__attribute__((format(printf, 2, 3))) void text_printf(struct text *text, const char *format, ...);
void text_clear(struct text *text);

#define MAX_KEY 3200
#define MAX_VALUE 2048

/* A request without its body. An absent header is an empty string. */
struct request {
    char method[16], path[MAX_KEY], query[MAX_KEY];
    char content_md5[64], crc64nvme[64], if_match[160], if_none_match[160], object_size[32], checksum_mode[32];
    char content_sha256[64], range[64];
    struct text metadata; /* the lines of Content-Type and x-amz-meta-* */
};

/* What was computed of a body as it came in. `md5` is null where the ETag need not be the MD5. */
struct body {
    uint64_t size, crc;
    EVP_MD_CTX *md5;
    struct text content; /* only of a POST */
};

/* Whether every ETag is an MD5. Otherwise a body that is sent without Content-MD5 gets one made of its checksum, as
 * AWS gives one that is no MD5 to an object encrypted with SSE-KMS, and a Content-MD5 is believed. */
extern int etags_are_md5;

/* Append the whole answer to a request, status line included, to `answer`. */
void s3_answer(const struct request *request, struct body *body, struct text *answer);

/* Append one header and its value, and what counts were taken of objects and requests as JSON members. */
void s3_counts(struct text *json);
void s3_reset(void);

/* The value of a parameter of a query, decoded; 0 if it is not there. */
int query_value(const char *query, const char *name, char *value, size_t capacity);
void url_decode(const char *from, size_t length, char *to, size_t capacity);
long long now_ns(void);

#endif
