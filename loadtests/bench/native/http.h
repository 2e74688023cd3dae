/* An HTTP/1.1 response, taken apart as its bytes come: head, body (by length, by chunks, or until the end). */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#include "net.h"
#include <strings.h>

enum state { HEAD, BY_LENGTH, SIZE, EXTENSION, DATA, DATA_END, TRAILER, UNTIL_CLOSE, DONE };

typedef struct {
    enum state state;
    int status, head_length;
    uint64_t left;
    bool line_empty;
    char head[1400];
} response;

typedef void (*on_body)(void *who, const char *bytes, size_t length);

/* The value of a header, or NULL. The head is lower case up to each colon only in name, so compare without case. */
static inline const char *header(const response *r, const char *name) {
    size_t n = strlen(name);
    for (const char *line = strstr(r->head, "\r\n"); line && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, n) && line[2 + n] == ':') {
            const char *value = line + 3 + n;
            while (*value == ' ') value++;
            return value;
        }
    return NULL;
}

static inline void judge_head(response *r) {
    const char *value;
    r->status = atoi(r->head + 9);
    if (r->status == 204 || r->status == 304) {
        r->state = DONE;
    } else if ((value = header(r, "transfer-encoding")) && !strncasecmp(value, "chunked", 7)) {
        r->state = SIZE;
        r->left = 0;
    } else if ((value = header(r, "content-length"))) {
        r->left = strtoull(value, NULL, 10);
        r->state = r->left ? BY_LENGTH : DONE;
    } else {
        r->state = UNTIL_CLOSE;
    }
}

static inline size_t feed_head(response *r, const char *p, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (r->head_length + 1 >= (int)sizeof r->head) die("a response's head is too long");
        r->head[r->head_length++] = p[i];
        if (p[i] == '\n' && r->head_length >= 4 && !memcmp(r->head + r->head_length - 4, "\r\n\r\n", 4)) {
            r->head[r->head_length] = 0;
            judge_head(r);
            return i + 1;
        }
    }
    return length;
}

static inline int hex(char c) {
    return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

/* One byte of what stands between chunks. */
static inline void feed_mark(response *r, char c) {
    switch (r->state) {
    case SIZE:
    case EXTENSION:
        if (c == '\n') {
            r->line_empty = true;
            r->state = r->left ? DATA : TRAILER;
        } else if (c == '\r' || c == ';') {
            r->state = EXTENSION;
        } else if (r->state == SIZE) {
            r->left = r->left * 16 + (uint64_t)hex(c);
        }
        break;
    case DATA_END:
        if (c == '\n') r->state = SIZE, r->left = 0;
        break;
    default: /* TRAILER */
        if (c == '\n') {
            if (r->line_empty) r->state = DONE;
            r->line_empty = true;
        } else if (c != '\r') {
            r->line_empty = false;
        }
    }
}

/* Takes bytes until the response is done or there are no more; returns how many it took. */
static inline size_t feed(response *r, const char *p, size_t length, on_body body, void *who) {
    size_t at = 0;
    while (at < length && r->state != DONE) {
        size_t span = length - at;
        if (r->state == HEAD) {
            at += feed_head(r, p + at, span);
        } else if (r->state == DATA || r->state == BY_LENGTH || r->state == UNTIL_CLOSE) {
            if (r->state != UNTIL_CLOSE && span > r->left) span = (size_t)r->left;
            if (body) body(who, p + at, span);
            at += span;
            if (r->state != UNTIL_CLOSE && !(r->left -= span)) r->state = r->state == DATA ? DATA_END : DONE;
        } else {
            feed_mark(r, p[at++]);
        }
    }
    return at;
}

static inline void next_response(response *r) {
    r->state = HEAD;
    r->head_length = 0;
}

#endif
