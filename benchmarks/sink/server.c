/* An S3 server for benchmarks that keeps no bodies: `sink [--port N] [--threads N] [--etag md5] [--tls CERTIFICATE KEY]`.
 *
 * It prints its port on a line of its own and runs until its standard input ends. Requests below /_sink/ are not S3's:
 * GET /_sink/stats answers what was counted, POST /_sink/reset forgets everything, and
 * POST /_sink/line?rtt_us=N&bytes_per_second=N sets the line of the connections that are opened from then on. */
#define _GNU_SOURCE
#include "chunks.h"
#include "crc64nvme.h"
#include "s3.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_HEAD 65536
#define MAX_CONTENT (4 << 20)
#define READ_BYTES (256 << 10)
#define READS_AT_ONCE 16
#define SLOW_WINDOW (128 << 10)
#define MAX_THREADS 16

struct line {
    long long rtt_ns, bytes_per_second;
};

struct connection {
    struct connection *next, *previous; /* among those that wait for a time */
    int fd, is_waiting;
    SSL *ssl;
    enum { OPENING, HANDSHAKE, READING_HEAD, READING_BODY, ANSWERING } state, after_answer;
    struct line line;
    long long ready_at; /* when bytes may move again */
    int is_last, is_chunked, is_aws_chunked;
    char head[MAX_HEAD];
    size_t head_length;
    uint64_t body_left;
    struct request request;
    struct body body;
    struct chunks outer, inner;
    struct text answer;
    size_t answer_sent;
};

struct worker {
    pthread_t thread;
    int epoll;
    struct connection *waiting;
    char *buffer;
};

static int listening;
static SSL_CTX *tls;
static volatile struct line line;
static uint64_t accepted, open_connections, failed_handshakes;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* --- bodies --- */

static int take_content(void *context, const char *bytes, size_t length)
{
    struct connection *connection = context;
    struct body *body = &connection->body;
    body->size += length;
    if (!strcmp(connection->request.method, "POST")) {
        if (body->content.length + length > MAX_CONTENT)
            return 0;
        text_add(&body->content, bytes, length);
        return 1;
    }
    body->crc = crc64nvme(body->crc, bytes, length);
    if (body->md5)
        EVP_DigestUpdate(body->md5, bytes, length);
    return 1;
}

static int take_aws_chunks(void *context, const char *bytes, size_t length)
{
    struct connection *connection = context;
    return chunks_decode(&connection->inner, bytes, length) == (long)length;
}

static void copy_value(char *to, size_t capacity, const char *value)
{
    snprintf(to, capacity, "%s", value);
}

static void take_header(void *context, char *header)
{
    struct request *request = &((struct connection *)context)->request;
    char *value = strchr(header, ':');
    if (!value)
        return;
    *value++ = 0;
    value += strspn(value, " \t");
    const struct {
        const char *name;
        char *to;
        size_t capacity;
    } kept[] = {
        { "content-md5", request->content_md5, sizeof request->content_md5 },
        { "x-amz-checksum-crc64nvme", request->crc64nvme, sizeof request->crc64nvme },
        { "if-match", request->if_match, sizeof request->if_match },
        { "if-none-match", request->if_none_match, sizeof request->if_none_match },
        { "x-amz-mp-object-size", request->object_size, sizeof request->object_size },
        { "x-amz-checksum-mode", request->checksum_mode, sizeof request->checksum_mode },
        { "x-amz-content-sha256", request->content_sha256, sizeof request->content_sha256 },
        { "range", request->range, sizeof request->range },
    };
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (!strcasecmp(header, kept[i].name))
            copy_value(kept[i].to, kept[i].capacity, value);
    if (!strncasecmp(header, "x-amz-meta-", 11) || !strcasecmp(header, "content-type"))
        text_printf(&request->metadata, "%s: %s\r\n", header, value);
}

/* --- requests --- */

static void control(struct connection *connection)
{
    char value[32];
    struct text json = { 0 };
    struct rusage used;
    const char *action = connection->request.path + strlen("/_sink/");
    if (!strcmp(action, "reset"))
        s3_reset();
    if (!strcmp(action, "line")) {
        query_value(connection->request.query, "rtt_us", value, sizeof value);
        line.rtt_ns = atoll(value) * 1000;
        query_value(connection->request.query, "bytes_per_second", value, sizeof value);
        line.bytes_per_second = atoll(value);
    }
    getrusage(RUSAGE_SELF, &used);
    text_printf(&json, "{\"connections\": %llu, \"open_connections\": %llu, \"failed_handshakes\": %llu, \"cpu_seconds\": %.3f, ",
        (unsigned long long)__atomic_load_n(&accepted, __ATOMIC_RELAXED),
        (unsigned long long)__atomic_load_n(&open_connections, __ATOMIC_RELAXED),
        (unsigned long long)__atomic_load_n(&failed_handshakes, __ATOMIC_RELAXED),
        used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
    s3_counts(&json);
    text_printf(&json, "}\n");
    text_printf(&connection->answer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", json.length,
        json.bytes);
    free(json.bytes);
}

static void begin_answer(struct connection *connection)
{
    connection->answer_sent = 0;
    connection->state = ANSWERING;
    connection->ready_at = connection->line.rtt_ns ? now_ns() + connection->line.rtt_ns : 0;
}

static void end_request(struct connection *connection)
{
    connection->after_answer = READING_HEAD;
    if (!strncmp(connection->request.path, "/_sink/", 7)) {
        control(connection);
        begin_answer(connection);
        connection->ready_at = 0;
        return;
    }
    s3_answer(&connection->request, &connection->body, &connection->answer);
    begin_answer(connection);
}

/* The head is complete: prepare for the body. Returns 0 if it is malformed. */
static int begin_request(struct connection *connection, size_t head_length)
{
    struct request *request = &connection->request;
    struct text metadata = request->metadata, content = connection->body.content;
    EVP_MD_CTX *md5 = connection->body.md5;
    text_clear(&metadata), text_clear(&content);
    memset(request, 0, sizeof *request), memset(&connection->body, 0, sizeof connection->body);
    request->metadata = metadata, connection->body.content = content, connection->body.md5 = md5;
    connection->is_chunked = connection->is_last = 0;
    connection->body_left = 0;
    int expects = 0;
    char *at = connection->head, *end = connection->head + head_length;
    char *eol = memchr(at, '\r', head_length), *target = memchr(at, ' ', head_length);
    if (!eol || !target || target > eol)
        return 0;
    *eol = 0;
    snprintf(request->method, sizeof request->method, "%.*s", (int)(target - at), at);
    target++;
    target[strcspn(target, " ")] = 0;
    size_t path_length = strcspn(target, "?");
    url_decode(target, path_length, request->path, sizeof request->path);
    copy_value(request->query, sizeof request->query, target[path_length] ? target + path_length + 1 : "");
    for (at = eol + 2; at < end - 2; at = eol + 2) {
        eol = strstr(at, "\r\n");
        *eol = 0;
        if (!strncasecmp(at, "content-length:", 15))
            connection->body_left = strtoull(at + 15, NULL, 10);
        else if (!strncasecmp(at, "transfer-encoding:", 18))
            connection->is_chunked = strcasestr(at + 18, "chunked") != NULL;
        else if (!strncasecmp(at, "expect:", 7))
            expects = strcasestr(at + 7, "100-continue") != NULL;
        else if (!strncasecmp(at, "connection:", 11))
            connection->is_last = strcasestr(at + 11, "close") != NULL;
        else
            take_header(connection, at);
    }
    connection->is_aws_chunked = !strncmp(request->content_sha256, "STREAMING-", 10);
    connection->inner = (struct chunks) { .on_data = take_content, .on_trailer = take_header, .context = connection };
    connection->outer = (struct chunks) { .on_data = connection->is_aws_chunked ? take_aws_chunks : take_content, .context = connection };
    if (connection->body.md5) {
        EVP_DigestInit_ex(connection->body.md5, EVP_md5(), NULL);
    } else if (etags_are_md5) {
        connection->body.md5 = EVP_MD_CTX_new();
        EVP_DigestInit_ex(connection->body.md5, EVP_md5(), NULL);
    }
    memmove(connection->head, end, connection->head_length -= head_length);
    text_clear(&connection->answer);
    connection->state = READING_BODY;
    if (expects && connection->head_length == 0 && (connection->body_left || connection->is_chunked)) {
        text_printf(&connection->answer, "HTTP/1.1 100 Continue\r\n\r\n");
        connection->after_answer = READING_BODY;
        begin_answer(connection);
    }
    return 1;
}

/* Take bytes of a body. Returns how many belong to it, or -1. */
static long take_body(struct connection *connection, const char *bytes, size_t length)
{
    long used;
    if (connection->is_chunked) {
        used = chunks_decode(&connection->outer, bytes, length);
        if (used >= 0 && connection->outer.state == ENDED)
            end_request(connection);
        return used;
    }
    used = length < connection->body_left ? (long)length : (long)connection->body_left;
    if (used && !connection->outer.on_data(connection, bytes, used))
        return -1;
    if (!(connection->body_left -= used))
        end_request(connection);
    return used;
}

/* Take bytes that came in. Returns 0 if they are malformed. */
static int take(struct connection *connection, const char *bytes, size_t length)
{
    while (1) {
        long used = 0;
        if (connection->state == READING_BODY) {
            /* What came in with the head is kept behind it. */
            int is_kept = connection->head_length > 0;
            used = take_body(connection, is_kept ? connection->head : bytes, is_kept ? connection->head_length : length);
            if (used < 0)
                return 0;
            if (is_kept)
                memmove(connection->head, connection->head + used, connection->head_length -= used);
            else
                bytes += used, length -= used;
            if (connection->state == READING_BODY && !(is_kept ? length : 0))
                return 1;
            continue;
        }
        size_t space = MAX_HEAD - 1 - connection->head_length;
        if (length > space && connection->state == ANSWERING)
            return 0;
        size_t taken = length < space ? length : space;
        memcpy(connection->head + connection->head_length, bytes, taken);
        connection->head[connection->head_length += taken] = 0;
        bytes += taken, length -= taken;
        if (connection->state == ANSWERING)
            return 1;
        char *end = strstr(connection->head, "\r\n\r\n");
        if (!end)
            return connection->head_length < MAX_HEAD - 1;
        if (!begin_request(connection, end + 4 - connection->head))
            return 0;
    }
}

/* --- connections --- */

static void wait_for_time(struct worker *worker, struct connection *connection, int waits)
{
    if (connection->is_waiting == waits)
        return;
    connection->is_waiting = waits;
    if (waits) {
        connection->previous = NULL, connection->next = worker->waiting;
        if (worker->waiting)
            worker->waiting->previous = connection;
        worker->waiting = connection;
    } else {
        if (connection->previous)
            connection->previous->next = connection->next;
        else
            worker->waiting = connection->next;
        if (connection->next)
            connection->next->previous = connection->previous;
    }
}

static void watch(struct worker *worker, struct connection *connection, uint32_t events)
{
    struct epoll_event event = { .events = events, .data.ptr = connection };
    epoll_ctl(worker->epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

static void end(struct worker *worker, struct connection *connection)
{
    wait_for_time(worker, connection, 0);
    if (connection->ssl)
        SSL_free(connection->ssl);
    close(connection->fd);
    EVP_MD_CTX_free(connection->body.md5);
    free(connection->body.content.bytes), free(connection->request.metadata.bytes), free(connection->answer.bytes);
    free(connection);
    __atomic_sub_fetch(&open_connections, 1, __ATOMIC_RELAXED);
}

/* What came of trying to move bytes. */
enum outcome { MOVED, WANTS_READ, WANTS_WRITE, LOST };

static enum outcome outcome_of(struct connection *connection, long result)
{
    if (connection->ssl)
        switch (SSL_get_error(connection->ssl, (int)result)) {
        case SSL_ERROR_NONE: return MOVED;
        case SSL_ERROR_WANT_READ: return WANTS_READ;
        case SSL_ERROR_WANT_WRITE: return WANTS_WRITE;
        default: ERR_clear_error(); return LOST;
        }
    if (result > 0)
        return MOVED;
    return result < 0 && errno == EAGAIN ? (connection->state == ANSWERING ? WANTS_WRITE : WANTS_READ) : LOST;
}

static enum outcome send_answer(struct connection *connection)
{
    while (connection->answer_sent < connection->answer.length) {
        const char *from = connection->answer.bytes + connection->answer_sent;
        size_t left = connection->answer.length - connection->answer_sent;
        long sent = connection->ssl ? SSL_write(connection->ssl, from, (int)left) : send(connection->fd, from, left, MSG_NOSIGNAL);
        enum outcome outcome = outcome_of(connection, sent);
        if (outcome != MOVED)
            return outcome;
        connection->answer_sent += sent;
    }
    if (connection->is_last && connection->after_answer == READING_HEAD)
        return LOST;
    text_clear(&connection->answer);
    connection->state = connection->after_answer;
    return take(connection, "", 0) ? MOVED : LOST;
}

static enum outcome receive(struct worker *worker, struct connection *connection)
{
    size_t most = connection->line.bytes_per_second ? 16384 : READ_BYTES;
    long got = connection->ssl ? SSL_read(connection->ssl, worker->buffer, (int)most) : recv(connection->fd, worker->buffer, most, 0);
    enum outcome outcome = outcome_of(connection, got);
    if (outcome != MOVED)
        return outcome;
    int had_body = connection->state == READING_BODY;
    if (!take(connection, worker->buffer, got))
        return LOST;
    if (had_body && connection->line.bytes_per_second && connection->state == READING_BODY) {
        long long now = now_ns(), since = connection->ready_at > now ? connection->ready_at : now;
        connection->ready_at = since + got * 1000000000LL / connection->line.bytes_per_second;
    }
    return MOVED;
}

static enum outcome shake_hands(struct connection *connection)
{
    if (!connection->ssl) {
        connection->state = READING_HEAD;
        return MOVED;
    }
    enum outcome outcome = outcome_of(connection, SSL_accept(connection->ssl));
    if (outcome == MOVED)
        connection->state = READING_HEAD;
    else if (outcome == LOST)
        __atomic_add_fetch(&failed_handshakes, 1, __ATOMIC_RELAXED);
    return outcome;
}

/* Move what can be moved now, and wait for what is missing. */
static void serve(struct worker *worker, struct connection *connection)
{
    for (int reads = 0;; reads++) {
        if (connection->ready_at && connection->ready_at > now_ns()) {
            watch(worker, connection, 0);
            wait_for_time(worker, connection, 1);
            return;
        }
        enum outcome outcome = MOVED;
        if (connection->state == OPENING)
            connection->state = HANDSHAKE;
        if (connection->state == HANDSHAKE)
            outcome = shake_hands(connection);
        else if (connection->state == ANSWERING)
            outcome = send_answer(connection);
        else
            outcome = receive(worker, connection);
        if (outcome == LOST) {
            end(worker, connection);
            return;
        }
        /* Others are served in between; what OpenSSL holds back wakes no epoll, so time does. */
        int is_turn_over = reads >= READS_AT_ONCE && connection->state == READING_BODY;
        if (outcome == MOVED && !is_turn_over)
            continue;
        wait_for_time(worker, connection, outcome == MOVED);
        watch(worker, connection, outcome == WANTS_WRITE ? EPOLLOUT : EPOLLIN);
        return;
    }
}

static void accept_one(struct worker *worker)
{
    int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), yes = 1, window = SLOW_WINDOW;
    if (fd < 0)
        return;
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        abort();
    connection->fd = fd;
    connection->line.rtt_ns = line.rtt_ns, connection->line.bytes_per_second = line.bytes_per_second;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connection->line.bytes_per_second)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
    if (tls) {
        connection->ssl = SSL_new(tls);
        SSL_set_fd(connection->ssl, fd);
        SSL_set_accept_state(connection->ssl);
    }
    /* A TCP connection takes one round trip, and TLS 1.3 another one (RFC 8446, 2). */
    if (connection->line.rtt_ns)
        connection->ready_at = now_ns() + connection->line.rtt_ns * (tls ? 2 : 1);
    __atomic_add_fetch(&accepted, 1, __ATOMIC_RELAXED), __atomic_add_fetch(&open_connections, 1, __ATOMIC_RELAXED);
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = connection };
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event))
        die("epoll_ctl");
    serve(worker, connection);
}

/* How long until a connection that waits for a time may go on; null if none waits. */
static struct timespec *next_time(const struct worker *worker, struct timespec *timeout)
{
    long long earliest = -1, now;
    for (const struct connection *at = worker->waiting; at; at = at->next)
        if (earliest < 0 || at->ready_at < earliest)
            earliest = at->ready_at;
    if (earliest < 0)
        return NULL;
    now = now_ns();
    long long left = earliest > now ? earliest - now : 0;
    *timeout = (struct timespec) { left / 1000000000, left % 1000000000 };
    return timeout;
}

static void serve_waiting(struct worker *worker)
{
    long long now = now_ns();
    struct connection *next;
    for (struct connection *at = worker->waiting; at; at = next) {
        next = at->next;
        if (at->ready_at <= now) {
            wait_for_time(worker, at, 0);
            serve(worker, at);
        }
    }
}

static void *work(void *context)
{
    struct worker *worker = context;
    struct epoll_event events[256];
    struct timespec timeout;
    while (1) {
        int count = epoll_pwait2(worker->epoll, events, 256, next_time(worker, &timeout), NULL);
        if (count < 0 && errno != EINTR)
            die("epoll_pwait2");
        for (int i = 0; i < count; i++)
            if (events[i].data.ptr)
                serve(worker, events[i].data.ptr);
            else
                accept_one(worker);
        if (worker->waiting)
            serve_waiting(worker);
    }
    return NULL;
}

static void listen_on(int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    int yes = 1;
    listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 4096)
        || getsockname(listening, (struct sockaddr *)&address, &length))
        die("listen");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void set_up_tls(const char *certificate, const char *key)
{
    tls = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 || SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(1);
    }
    SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

int main(int count, char **arguments)
{
    int port = 0, threads = 2;
    const char *certificate = NULL, *key = NULL;
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "--port") && i + 1 < count)
            port = atoi(arguments[++i]);
        else if (!strcmp(arguments[i], "--threads") && i + 1 < count)
            threads = atoi(arguments[++i]);
        else if (!strcmp(arguments[i], "--etag") && i + 1 < count)
            etags_are_md5 = !strcmp(arguments[++i], "md5");
        else if (!strcmp(arguments[i], "--tls") && i + 2 < count)
            certificate = arguments[++i], key = arguments[++i];
        else
            return fprintf(stderr, "usage: sink [--port N] [--threads N] [--etag md5] [--tls CERTIFICATE KEY]\n"), 2;
    }
    threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    signal(SIGPIPE, SIG_IGN);
    crc64nvme_init();
    if (certificate)
        set_up_tls(certificate, key);
    listen_on(port);
    static struct worker workers[MAX_THREADS];
    for (int i = 0; i < threads; i++) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = NULL };
        workers[i].epoll = epoll_create1(EPOLL_CLOEXEC);
        workers[i].buffer = malloc(READ_BYTES);
        if (workers[i].epoll < 0 || !workers[i].buffer || epoll_ctl(workers[i].epoll, EPOLL_CTL_ADD, listening, &event)
            || pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            die("worker");
    }
    char byte;
    while (read(0, &byte, 1) > 0)
        continue;
    return 0;
}
