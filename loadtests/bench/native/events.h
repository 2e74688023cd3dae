/* The bench's events, `{"n":"<10 digits>","t":"<16 digits>","p":"<padding>"}`: the n-th of its run, sent at t.
 *
 * They are found in whatever frames a server puts them, and across its pieces. Padding holds no brace. */
#ifndef BENCH_EVENTS_H
#define BENCH_EVENTS_H

#include "net.h"

#define EVENT_START "{\"n\":\"##########\",\"t\":\"################\""
#define EVENT_START_LENGTH 40
#define N_AT 6
#define N_DIGITS 10
#define T_AT 23
#define T_DIGITS 16

typedef struct {
    int matched;
    uint64_t n, t;
} finder;

typedef void (*on_event)(void *who, uint64_t n, uint64_t t);

static inline void find_events(finder *f, const char *p, size_t length, on_event event, void *who) {
    const char *end = p + length;
    while (p < end) {
        if (!f->matched) {
            p = memchr(p, '{', (size_t)(end - p));
            if (!p) return;
            f->matched = 1;
            f->n = f->t = 0;
            p++;
            continue;
        }
        char want = EVENT_START[f->matched], c = *p;
        if (want == '#' && c >= '0' && c <= '9') {
            uint64_t *value = f->matched < N_AT + N_DIGITS ? &f->n : &f->t;
            *value = *value * 10 + (uint64_t)(c - '0');
        } else if (c != want) {
            f->matched = 0; /* the byte itself may begin the next one */
            continue;
        }
        p++;
        if (++f->matched == EVENT_START_LENGTH) {
            f->matched = 0;
            event(who, f->n, f->t);
        }
    }
}

static inline void write_digits(char *at, int digits, uint64_t value) {
    while (digits--) {
        at[digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

/* Writes an event of `size` bytes, with zeros for its numbers. */
static inline void blank_event(char *at, int size) {
    static const char middle[] = ",\"p\":\"";
    if (size < EVENT_START_LENGTH + (int)sizeof middle - 1 + 2) die("events have at least 48 bytes");
    memset(at, '.', (size_t)size);
    memcpy(at, EVENT_START, EVENT_START_LENGTH);
    for (int i = 0; i < EVENT_START_LENGTH; i++)
        if (at[i] == '#') at[i] = '0';
    memcpy(at + EVENT_START_LENGTH, middle, sizeof middle - 1);
    memcpy(at + size - 2, "\"}", 2);
}

static inline void stamp_event(char *at, uint64_t n, uint64_t t) {
    write_digits(at + N_AT, N_DIGITS, n);
    write_digits(at + T_AT, T_DIGITS, t);
}

#endif
