/* Many readers of one run who follow it by long-polls, as the protocol's clients do: catch-up, then waits with the offset and
 * the cursor that the last answer gave.
 *
 *   polls --port P --path PATH --readers N --events E
 *
 * Each must see the events 1 … E once and in order. Prints {"event":"ready"} when all have caught up and wait, and its line
 * when all have seen the last. */
#include "events.h"
#include "http.h"

typedef struct {
    int fd;
    uint64_t last;
    bool waits;
    char offset[64], cursor[32];
    response reply;
    finder find;
} reader;

static int port;
static uint64_t faults, wanted, answers, empty, caught_up;
static const char *path;
static histogram latency;

static void got_event(void *who, uint64_t n, uint64_t t) {
    reader *r = who;
    uint64_t now = now_us();
    if (n != r->last + 1) faults++;
    r->last = n;
    if (r->waits) record(&latency, now > t ? now - t : 0);
}

static void got_body(void *who, const char *p, size_t length) {
    find_events(&((reader *)who)->find, p, length, got_event, who);
}

static void ask(reader *r) {
    char request[768];
    int length = snprintf(request, sizeof request, "GET %s?%s%s%s%soffset=%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
                          path, r->cursor[0] ? "cursor=" : "", r->cursor, r->cursor[0] ? "&" : "",
                          r->waits ? "live=long-poll&" : "", r->offset, port);
    next_response(&r->reply);
    r->find.matched = 0;
    if (!send_all(r->fd, request, (size_t)length)) die("a request could not be sent: %s", strerror(errno));
}

static void keep(const response *from, const char *name, char *into, size_t size) {
    const char *value = header(from, name);
    if (value) snprintf(into, size, "%.*s", (int)strcspn(value, "\r\n"), value);
}

/* After an answer: whether this reader has seen all. */
static bool answered(reader *r) {
    if (r->reply.status != 200 && r->reply.status != 204) die("a reader was answered %s", r->reply.head);
    answers++;
    if (r->reply.status == 204) empty++;
    keep(&r->reply, "stream-next-offset", r->offset, sizeof r->offset);
    keep(&r->reply, "stream-cursor", r->cursor, sizeof r->cursor);
    if (!r->waits && header(&r->reply, "stream-up-to-date")) r->waits = true, caught_up++;
    if (r->last == wanted) return true;
    ask(r);
    return false;
}

/* Whether this reader has come to the end. */
static bool hear(reader *r) {
    static char buffer[1 << 16];
    for (;;) {
        ssize_t n = recv(r->fd, buffer, sizeof buffer, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
        if (n <= 0) die("a reader lost its connection");
        size_t at = 0;
        while (at < (size_t)n) {
            at += feed(&r->reply, buffer + at, (size_t)n - at, got_body, r);
            if (r->reply.state == DONE && answered(r)) return true;
        }
    }
}

int main(int argc, char **argv) {
    struct epoll_event ready[256];
    begin();
    port = number(argc, argv, "--port", NULL);
    path = option(argc, argv, "--path", NULL);
    wanted = (uint64_t)number(argc, argv, "--events", NULL);
    int readers = number(argc, argv, "--readers", NULL), left = readers, epoll = epoll_create1(EPOLL_CLOEXEC);
    bool told = false;
    reader *all = calloc((size_t)readers, sizeof *all);
    for (int i = 0; i < readers; i++) {
        all[i].fd = connect_to(port, 0);
        if (all[i].fd < 0) die("cannot connect to port %d: %s", port, strerror(errno));
        strcpy(all[i].offset, "-1");
        watch(epoll, all[i].fd, &all[i], EPOLLIN);
        ask(&all[i]);
    }
    while (left) {
        int n = epoll_wait(epoll, ready, 256, -1);
        for (int i = 0; i < n; i++) {
            reader *r = ready[i].data.ptr;
            if (r->fd < 0 || !hear(r)) continue;
            close(r->fd);
            r->fd = -1;
            left--;
        }
        if (!told && caught_up == (uint64_t)readers) told = true, printf("{\"event\":\"ready\"}\n"), fflush(stdout);
    }
    printf("{\"answers\":%llu,\"empty\":%llu,\"faults\":%llu", (unsigned long long)answers, (unsigned long long)empty,
           (unsigned long long)faults);
    print_histogram("latency", &latency);
    printf("}\n");
    return 0;
}
