/* The S3 requests that the sink answers. Signatures are not checked, and every object is public. */
#include "s3.h"

#include "crc64nvme.h"
#include "store.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NAMESPACE "http://s3.amazonaws.com/doc/2006-03-01/"
#define XML "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
#define PAGE 1000
#define MAX_PARTS 10000

enum operation { PUT, PUT_ACL, HEAD, GET, DELETE_, CREATE, UPLOAD_PART, COMPLETE, ABORT, LIST, LIST_UPLOADS, LIST_PARTS, BUCKET,
    OTHER, OPERATIONS };
static const char *const names[OPERATIONS] = { "PutObject", "PutObjectAcl", "HeadObject", "GetObject", "DeleteObject",
    "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload", "ListObjects",
    "ListMultipartUploads", "ListParts", "Bucket", "Other" };

int etags_are_md5;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t requests[OPERATIONS], refused, bytes_received;

static void encode_base64(const unsigned char *bytes, int length, char *to)
{
    EVP_EncodeBlock((unsigned char *)to, bytes, length);
}

static void encode_crc(uint64_t crc, char *to)
{
    uint64_t big_endian = __builtin_bswap64(crc);
    encode_base64((unsigned char *)&big_endian, 8, to);
}

static void encode_hex(const unsigned char *bytes, char *to)
{
    for (int i = 0; i < 16; i++)
        sprintf(to + 2 * i, "%02x", bytes[i]);
}

/* --- answers --- */

static const char *phrase(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 412: return "Precondition Failed";
    case 416: return "Range Not Satisfiable";
    default: return "Not Implemented";
    }
}

static void answer_with(struct text *answer, int status, const char *headers, const char *content)
{
    text_printf(answer, "HTTP/1.1 %d %s\r\nServer: sink\r\nx-amz-request-id: 0\r\n%sContent-Length: %zu\r\n", status,
        phrase(status), headers, strlen(content));
    text_printf(answer, "%s\r\n%s", *content ? "Content-Type: application/xml\r\n" : "", content);
}

static void refuse(struct text *answer, const struct request *request, int status, const char *code)
{
    char content[256];
    refused++;
    snprintf(content, sizeof content, XML "<Error><Code>%s</Code><Message>Refused by the sink.</Message></Error>", code);
    answer_with(answer, status, "", strcmp(request->method, "HEAD") ? content : "");
}

static void add_escaped(struct text *to, const char *from)
{
    for (; *from; from++)
        switch (*from) {
        case '&': text_printf(to, "&amp;"); break;
        case '<': text_printf(to, "&lt;"); break;
        case '>': text_printf(to, "&gt;"); break;
        default: text_add(to, from, 1);
        }
}

static void add_url_encoded(struct text *to, const char *from)
{
    for (; *from; from++)
        if (strchr("<>&%\"'+ ", *from) || (unsigned char)*from < 32 || (unsigned char)*from > 126)
            text_printf(to, "%%%02X", (unsigned char)*from);
        else
            text_add(to, from, 1);
}

static void add_time(struct text *to, const char *element, time_t time)
{
    char written[40];
    struct tm fields;
    strftime(written, sizeof written, "%Y-%m-%dT%H:%M:%S.000Z", gmtime_r(&time, &fields));
    text_printf(to, "<%s>%s</%s>", element, written, element);
}

static void add_etag(struct text *headers, const struct piece *piece)
{
    text_printf(headers, "ETag: \"%s\"\r\n%s", piece->etag,
        piece->is_encrypted ? "x-amz-server-side-encryption: aws:kms\r\n" : "");
}

static void add_checksum_headers(struct text *headers, const struct piece *piece)
{
    char checksum[16];
    encode_crc(piece->crc, checksum);
    add_etag(headers, piece);
    text_printf(headers, "x-amz-checksum-crc64nvme: %s\r\nx-amz-checksum-type: FULL_OBJECT\r\n", checksum);
}

/* --- writing --- */

/* The digests of a body; 0 if it is not what its headers say. */
static int examine(const struct request *request, struct body *body, struct piece *piece)
{
    char text[64];
    piece->size = body->size, piece->crc = body->crc, piece->is_encrypted = 0;
    encode_crc(piece->crc, text);
    if (*request->crc64nvme && strcmp(request->crc64nvme, text))
        return 0;
    unsigned char claimed[64];
    int is_claimed = *request->content_md5 && strlen(request->content_md5) == 24
        && EVP_DecodeBlock(claimed, (const unsigned char *)request->content_md5, 24) == 18;
    if (*request->content_md5 && !is_claimed)
        return 0;
    if (body->md5) {
        EVP_DigestFinal_ex(body->md5, piece->md5, NULL);
        if (is_claimed && memcmp(claimed, piece->md5, 16))
            return 0;
    } else if (is_claimed) {
        memcpy(piece->md5, claimed, 16);
    } else {
        memset(piece->md5, 0, 16);
        memcpy(piece->md5, &piece->crc, 8);
        memcpy(piece->md5 + 8, &piece->size, 8);
        piece->is_encrypted = 1;
    }
    encode_hex(piece->md5, piece->etag);
    return 1;
}

/* Whether the conditions of a write hold (RFC 9110, 13.1). */
static int is_allowed(const struct request *request, const struct object *present)
{
    if (!strcmp(request->if_none_match, "*") && present)
        return 0;
    if (!*request->if_match)
        return 1;
    char wanted[160];
    snprintf(wanted, sizeof wanted, "%s", request->if_match + (request->if_match[0] == '"'));
    wanted[strcspn(wanted, "\"")] = 0;
    return present && !strcmp(wanted, present->piece.etag);
}

static void put(const struct request *request, struct body *body, const char *key, struct text *answer)
{
    struct piece piece;
    struct text headers = { 0 };
    if (!examine(request, body, &piece)) {
        refuse(answer, request, 400, "BadDigest");
        return;
    }
    if (!is_allowed(request, *store_object(key))) {
        refuse(answer, request, 412, "PreconditionFailed");
        return;
    }
    store_put(key, request->metadata.bytes, &piece);
    add_checksum_headers(&headers, &piece);
    answer_with(answer, 200, headers.bytes, "");
    free(headers.bytes);
}

static void create(const struct request *request, const char *key, struct text *answer)
{
    struct upload *upload = store_begin(key, request->metadata.bytes);
    struct text content = { 0 };
    text_printf(&content, XML "<InitiateMultipartUploadResult xmlns=\"" NAMESPACE "\"><Key>");
    add_escaped(&content, strchr(key, '/') + 1);
    text_printf(&content, "</Key><UploadId>%016llx</UploadId></InitiateMultipartUploadResult>", (unsigned long long)upload->id);
    answer_with(answer, 200, "x-amz-checksum-algorithm: CRC64NVME\r\nx-amz-checksum-type: FULL_OBJECT\r\n", content.bytes);
    free(content.bytes);
}

static void upload_part(const struct request *request, struct body *body, struct upload *upload, struct text *answer)
{
    char value[32];
    struct part part;
    query_value(request->query, "partNumber", value, sizeof value);
    part.number = atoi(value);
    if (part.number < 1 || part.number > MAX_PARTS) {
        refuse(answer, request, 400, "InvalidArgument");
        return;
    }
    if (!examine(request, body, &part.piece)) {
        refuse(answer, request, 400, "BadDigest");
        return;
    }
    store_part(upload, &part);
    struct text headers = { 0 };
    add_checksum_headers(&headers, &part.piece);
    answer_with(answer, 200, headers.bytes, "");
    free(headers.bytes);
}

static void complete(const struct request *request, struct body *body, struct upload **slot, struct text *answer)
{
    struct upload *upload = *slot;
    struct piece whole = { 0 };
    char checksum[16];
    int count = 0;
    EVP_MD_CTX *md5 = EVP_MD_CTX_new();
    EVP_DigestInit_ex(md5, EVP_md5(), NULL);
    for (const char *at = body->content.bytes; at && (at = strstr(at, "<PartNumber>")); count++) {
        struct part *part = store_find_part(upload, atoi(at += strlen("<PartNumber>")));
        if (!part) {
            EVP_MD_CTX_free(md5);
            refuse(answer, request, 400, "InvalidPart");
            return;
        }
        whole.crc = count ? crc64nvme_combine(whole.crc, part->piece.crc, part->piece.size) : part->piece.crc;
        whole.size += part->piece.size;
        whole.is_encrypted |= part->piece.is_encrypted;
        EVP_DigestUpdate(md5, part->piece.md5, 16);
    }
    EVP_DigestFinal_ex(md5, whole.md5, NULL);
    EVP_MD_CTX_free(md5);
    encode_hex(whole.md5, whole.etag);
    sprintf(whole.etag + 32, "-%d", count);
    encode_crc(whole.crc, checksum);
    if (!count) {
        refuse(answer, request, 400, "MalformedXML");
    } else if (*request->object_size && strtoull(request->object_size, NULL, 10) != whole.size) {
        refuse(answer, request, 400, "InvalidRequest");
    } else if (*request->crc64nvme && strcmp(request->crc64nvme, checksum)) {
        refuse(answer, request, 400, "BadDigest");
    } else if (!is_allowed(request, *store_object(upload->key))) {
        refuse(answer, request, 412, "PreconditionFailed");
    } else {
        struct text content = { 0 };
        store_put(upload->key, upload->metadata, &whole);
        text_printf(&content, XML "<CompleteMultipartUploadResult xmlns=\"" NAMESPACE "\"><Key>");
        add_escaped(&content, strchr(upload->key, '/') + 1);
        text_printf(&content, "</Key><ETag>&quot;%s&quot;</ETag><ChecksumCRC64NVME>%s</ChecksumCRC64NVME>"
            "<ChecksumType>FULL_OBJECT</ChecksumType></CompleteMultipartUploadResult>", whole.etag, checksum);
        store_forget_upload(slot);
        answer_with(answer, 200, "", content.bytes);
        free(content.bytes);
    }
}

/* --- reading --- */

static void read_object(const struct request *request, const struct object *object, struct text *answer)
{
    struct text headers = { 0 };
    char modified[40];
    struct tm fields;
    unsigned long long from = 0, to = object->piece.size ? object->piece.size - 1 : 0;
    int is_range = sscanf(request->range, "bytes=%llu-%llu", &from, &to) >= 1;
    int is_head = !strcmp(request->method, "HEAD");
    if (is_range && from >= object->piece.size) {
        refuse(answer, request, 416, "InvalidRange");
        return;
    }
    if (to >= object->piece.size)
        to = object->piece.size ? object->piece.size - 1 : 0;
    uint64_t length = object->piece.size ? to - from + 1 : 0;
    strftime(modified, sizeof modified, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&object->modified, &fields));
    if (!strcmp(request->checksum_mode, "ENABLED"))
        add_checksum_headers(&headers, &object->piece);
    else
        add_etag(&headers, &object->piece);
    text_printf(&headers, "Last-Modified: %s\r\nAccept-Ranges: bytes\r\n%s", modified, object->metadata);
    if (is_range)
        text_printf(&headers, "Content-Range: bytes %llu-%llu/%llu\r\n", from, to, (unsigned long long)object->piece.size);
    text_printf(answer, "HTTP/1.1 %d %s\r\nServer: sink\r\n%sContent-Length: %llu\r\n\r\n", is_range ? 206 : 200,
        phrase(is_range ? 206 : 200), headers.bytes, (unsigned long long)length);
    free(headers.bytes);
    static const char zeros[65536];
    for (; !is_head && length; length -= length < sizeof zeros ? length : sizeof zeros)
        text_add(answer, zeros, length < sizeof zeros ? length : sizeof zeros);
}

static void list(const struct request *request, const char *bucket, struct text *answer)
{
    char prefix[MAX_KEY], whole[2 * MAX_KEY], delimiter[16], value[MAX_KEY], after[MAX_KEY] = "", last[MAX_KEY] = "";
    int is_v2 = query_value(request->query, "list-type", value, sizeof value);
    int is_encoded = query_value(request->query, "encoding-type", value, sizeof value);
    void (*add)(struct text *, const char *) = is_encoded ? add_url_encoded : add_escaped;
    size_t most = query_value(request->query, "max-keys", value, sizeof value) ? strtoul(value, NULL, 10) : PAGE;
    query_value(request->query, "prefix", prefix, sizeof prefix);
    query_value(request->query, "delimiter", delimiter, sizeof delimiter);
    if (!query_value(request->query, "continuation-token", after, sizeof after)
        && !query_value(request->query, "start-after", after, sizeof after))
        query_value(request->query, "marker", after, sizeof after);
    snprintf(whole, sizeof whole, "%s/%s", bucket, prefix);
    size_t count, listed = 0, skip = strlen(bucket) + 1;
    struct object **found = store_sorted(whole, &count);
    struct text entries = { 0 }, content = { 0 };
    int is_truncated = 0;
    for (size_t i = 0; i < count; i++) {
        const char *key = found[i]->key + skip;
        const char *end = *delimiter ? strstr(key + strlen(prefix), delimiter) : NULL;
        char name[MAX_KEY];
        snprintf(name, sizeof name, "%.*s", end ? (int)(end + strlen(delimiter) - key) : (int)strlen(key), key);
        if ((*after && strcmp(name, after) <= 0) || !strcmp(name, last))
            continue;
        if (listed == (most < PAGE ? most : PAGE)) {
            is_truncated = 1;
            break;
        }
        text_printf(&entries, end ? "<CommonPrefixes><Prefix>" : "<Contents><Key>");
        add(&entries, name);
        text_printf(&entries, end ? "</Prefix></CommonPrefixes>" : "</Key>");
        if (!end) {
            add_time(&entries, "LastModified", found[i]->modified);
            text_printf(&entries, "<ETag>&quot;%s&quot;</ETag><Size>%llu</Size><StorageClass>STANDARD</StorageClass></Contents>",
                found[i]->piece.etag, (unsigned long long)found[i]->piece.size);
        }
        snprintf(last, sizeof last, "%s", name);
        listed++;
    }
    text_printf(&content, XML "<ListBucketResult xmlns=\"" NAMESPACE "\"><IsTruncated>%s</IsTruncated>", is_truncated ? "true" : "false");
    if (is_encoded)
        text_printf(&content, "<EncodingType>url</EncodingType>");
    if (is_v2)
        text_printf(&content, "<KeyCount>%zu</KeyCount>", listed);
    if (is_truncated) {
        const char *element = is_v2 ? "NextContinuationToken" : "NextMarker";
        text_printf(&content, "<%s>", element);
        (is_v2 ? add_escaped : add)(&content, last);
        text_printf(&content, "</%s>", element);
    }
    text_printf(&content, "%s</ListBucketResult>", entries.bytes ? entries.bytes : "");
    answer_with(answer, 200, "", content.bytes);
    free(found), free(entries.bytes), free(content.bytes);
}

static void list_uploads(const struct request *request, const char *bucket, struct text *answer)
{
    char prefix[MAX_KEY], whole[2 * MAX_KEY];
    struct text content = { 0 };
    query_value(request->query, "prefix", prefix, sizeof prefix);
    snprintf(whole, sizeof whole, "%s/%s", bucket, prefix);
    text_printf(&content, XML "<ListMultipartUploadsResult xmlns=\"" NAMESPACE "\"><IsTruncated>false</IsTruncated>");
    for (int i = 0; i < STORE_UPLOADS; i++)
        for (struct upload *upload = store_uploads[i]; upload; upload = upload->next)
            if (!strncmp(upload->key, whole, strlen(whole))) {
                text_printf(&content, "<Upload><Key>");
                add_escaped(&content, upload->key + strlen(bucket) + 1);
                text_printf(&content, "</Key><UploadId>%016llx</UploadId>", (unsigned long long)upload->id);
                add_time(&content, "Initiated", upload->begun);
                text_printf(&content, "</Upload>");
            }
    text_printf(&content, "</ListMultipartUploadsResult>");
    answer_with(answer, 200, "", content.bytes);
    free(content.bytes);
}

static void list_parts(const struct request *request, const struct upload *upload, struct text *answer)
{
    char value[32];
    int after = query_value(request->query, "part-number-marker", value, sizeof value) ? atoi(value) : 0;
    int most = query_value(request->query, "max-parts", value, sizeof value) ? atoi(value) : PAGE;
    int listed = 0, last = after, is_truncated = 0;
    struct text entries = { 0 }, content = { 0 };
    for (int i = 0; i < upload->count; i++) {
        const struct part *part = &upload->parts[i];
        if (part->number <= after)
            continue;
        if (listed == (most < PAGE ? most : PAGE)) {
            is_truncated = 1;
            break;
        }
        encode_crc(part->piece.crc, value);
        text_printf(&entries, "<Part><PartNumber>%d</PartNumber><Size>%llu</Size><ETag>&quot;%s&quot;</ETag>"
            "<ChecksumCRC64NVME>%s</ChecksumCRC64NVME>", part->number, (unsigned long long)part->piece.size, part->piece.etag, value);
        add_time(&entries, "LastModified", upload->begun);
        text_printf(&entries, "</Part>");
        last = part->number, listed++;
    }
    text_printf(&content, XML "<ListPartsResult xmlns=\"" NAMESPACE "\"><IsTruncated>%s</IsTruncated>"
        "<NextPartNumberMarker>%d</NextPartNumberMarker>%s</ListPartsResult>", is_truncated ? "true" : "false", last,
        entries.bytes ? entries.bytes : "");
    answer_with(answer, 200, "", content.bytes);
    free(entries.bytes), free(content.bytes);
}

/* --- dispatch --- */

static void answer_bucket(const struct request *request, const char *bucket, struct text *answer)
{
    char value[MAX_VALUE];
    if (!strcmp(request->method, "GET") && query_value(request->query, "uploads", value, sizeof value)) {
        requests[LIST_UPLOADS]++;
        list_uploads(request, bucket, answer);
    } else if (!strcmp(request->method, "GET") && query_value(request->query, "location", value, sizeof value)) {
        requests[BUCKET]++;
        answer_with(answer, 200, "", XML "<LocationConstraint xmlns=\"" NAMESPACE "\"/>");
    } else if (!strcmp(request->method, "GET") && query_value(request->query, "versioning", value, sizeof value)) {
        requests[BUCKET]++;
        answer_with(answer, 200, "", XML "<VersioningConfiguration xmlns=\"" NAMESPACE "\"/>");
    } else if (!strcmp(request->method, "GET")) {
        requests[LIST]++;
        list(request, bucket, answer);
    } else if (!strcmp(request->method, "HEAD") || !strcmp(request->method, "PUT")) {
        requests[BUCKET]++;
        answer_with(answer, 200, "", "");
    } else {
        requests[OTHER]++;
        refuse(answer, request, 501, "NotImplemented");
    }
}

static void answer_upload(const struct request *request, struct body *body, const char *id, struct text *answer)
{
    struct upload **slot = store_upload(id);
    enum operation operation = !strcmp(request->method, "PUT") ? UPLOAD_PART
        : !strcmp(request->method, "POST")                     ? COMPLETE
        : !strcmp(request->method, "DELETE")                   ? ABORT
                                                               : LIST_PARTS;
    requests[operation]++;
    if (!*slot) {
        refuse(answer, request, 404, "NoSuchUpload");
    } else if (operation == UPLOAD_PART) {
        upload_part(request, body, *slot, answer);
    } else if (operation == COMPLETE) {
        complete(request, body, slot, answer);
    } else if (operation == ABORT) {
        store_forget_upload(slot);
        answer_with(answer, 204, "", "");
    } else {
        list_parts(request, *slot, answer);
    }
}

static void answer_object(const struct request *request, struct body *body, const char *key, struct text *answer)
{
    char value[MAX_VALUE];
    struct object **slot = store_object(key);
    int is_acl = query_value(request->query, "acl", value, sizeof value);
    enum operation operation = OTHER;
    if (!strcmp(request->method, "PUT"))
        operation = is_acl ? PUT_ACL : PUT;
    else if (!strcmp(request->method, "DELETE"))
        operation = DELETE_;
    else if (!strcmp(request->method, "POST") && query_value(request->query, "uploads", value, sizeof value))
        operation = CREATE;
    else if (!strcmp(request->method, "HEAD"))
        operation = HEAD;
    else if (!strcmp(request->method, "GET"))
        operation = GET;
    requests[operation]++;
    if (operation == PUT) {
        put(request, body, key, answer);
    } else if (operation == CREATE) {
        create(request, key, answer);
    } else if (operation == DELETE_) {
        if (*slot)
            store_forget_object(slot);
        answer_with(answer, 204, "", "");
    } else if (operation == OTHER) {
        refuse(answer, request, 501, "NotImplemented");
    } else if (!*slot) {
        refuse(answer, request, 404, "NoSuchKey");
    } else if (is_acl) {
        answer_with(answer, 200, "", operation == PUT_ACL ? "" : XML "<AccessControlPolicy xmlns=\"" NAMESPACE "\"><Owner><ID>sink</ID></Owner>"
            "<AccessControlList><Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"Group\">"
            "<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee><Permission>READ</Permission></Grant>"
            "</AccessControlList></AccessControlPolicy>");
    } else {
        read_object(request, *slot, answer);
    }
}

void s3_answer(const struct request *request, struct body *body, struct text *answer)
{
    char path[MAX_KEY], id[64];
    const char *begin = request->path + strspn(request->path, "/");
    snprintf(path, sizeof path, "%s", begin);
    char *key = strchr(path, '/');
    pthread_mutex_lock(&lock);
    bytes_received += body->size;
    if (!key || !key[1]) {
        if (key)
            *key = 0;
        answer_bucket(request, path, answer);
    } else if (query_value(request->query, "uploadId", id, sizeof id)) {
        answer_upload(request, body, id, answer);
    } else {
        answer_object(request, body, path, answer);
    }
    pthread_mutex_unlock(&lock);
}

void s3_counts(struct text *json)
{
    pthread_mutex_lock(&lock);
    text_printf(json, "\"objects\": %llu, \"open_uploads\": %llu, \"bytes\": %llu, \"refused\": %llu, \"requests\": {",
        (unsigned long long)store_object_count, (unsigned long long)store_upload_count, (unsigned long long)bytes_received,
        (unsigned long long)refused);
    for (int i = 0; i < OPERATIONS; i++)
        text_printf(json, "%s\"%s\": %llu", i ? ", " : "", names[i], (unsigned long long)requests[i]);
    text_printf(json, "}");
    pthread_mutex_unlock(&lock);
}

void s3_reset(void)
{
    pthread_mutex_lock(&lock);
    store_clear();
    memset(requests, 0, sizeof requests);
    refused = bytes_received = 0;
    pthread_mutex_unlock(&lock);
}
