/* Text that grows, and what URLs are written in. */
#include "s3.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void reserve(struct text *text, size_t more)
{
    if (text->length + more + 1 <= text->capacity)
        return;
    text->capacity = (text->length + more + 1) * 2;
    text->bytes = realloc(text->bytes, text->capacity);
    if (!text->bytes)
        abort();
}

void text_add(struct text *text, const void *bytes, size_t length)
{
    reserve(text, length);
    memcpy(text->bytes + text->length, bytes, length);
    text->bytes[text->length += length] = 0;
}

void text_printf(struct text *text, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    reserve(text, length);
    vsnprintf(text->bytes + text->length, length + 1, format, again);
    text->length += length;
    va_end(again);
    va_end(arguments);
}

void text_clear(struct text *text)
{
    text->length = 0;
    if (text->bytes)
        text->bytes[0] = 0;
}

static int hex(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    digit |= 32;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

void url_decode(const char *from, size_t length, char *to, size_t capacity)
{
    size_t used = 0;
    for (size_t i = 0; i < length && used + 1 < capacity; i++) {
        if (from[i] == '%' && i + 2 < length && hex(from[i + 1]) >= 0 && hex(from[i + 2]) >= 0) {
            to[used++] = (char)(hex(from[i + 1]) << 4 | hex(from[i + 2]));
            i += 2;
        } else {
            to[used++] = from[i];
        }
    }
    to[used] = 0;
}

int query_value(const char *query, const char *name, char *value, size_t capacity)
{
    size_t length = strlen(name);
    value[0] = 0;
    for (const char *at = query; at && *at; at = strchr(at, '&') ? strchr(at, '&') + 1 : NULL) {
        if (strncmp(at, name, length) || (at[length] && at[length] != '=' && at[length] != '&'))
            continue;
        if (at[length] == '=')
            url_decode(at + length + 1, strcspn(at + length + 1, "&"), value, capacity);
        return 1;
    }
    return 0;
}

long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}
