/* Many SSE readers in one process. Checks that each sees every event of its run once and in order; measures how old
 * events are when they arrive. With a second port it goes there when its server is lost, with the last position.
 *
 *   readers --port P --path PATTERN --readers N --runs R [--fallback PORT] [--base RUN] [--pace BYTES]
 *
 * The pattern's %r is the run, counted from the base, %o the position reached. Prints {"event":"ready"} when all are connected, and a line
 * for each "mark" (count from here), "stats", "hurry" and "stop" on stdin. With a pace, each reads only so many bytes
 * a second, until it is told to hurry. */
#include "events.h"
#include "http.h"

typedef struct {
    int fd;
    unsigned run;
    uint64_t last, lost_at, joined_at;
    bool up;
    response reply;
    finder find;
} reader;

#define TICKS 10 /* a second, for those who have a pace */

static int epoll, port, fallback, readers, opened, up, pace;
static const char *path;
static reader *all;
static uint64_t events, gaps, repeats, bytes, lost, ended, recovered, refused;
static histogram latency, recovery;

static void got_event(void *who, uint64_t n, uint64_t t) {
    reader *r = who;
    uint64_t now = now_us();
    events++;
    record(&latency, now > t ? now - t : 0);
    if (n == r->last + 1) r->last = n;
    else if (n <= r->last) repeats++;
    else gaps++, r->last = n;
    /* Everything that was missed comes before what was written after the reader had come back. */
    if (r->lost_at && r->up && t >= r->joined_at) {
        record(&recovery, now - r->lost_at);
        recovered++;
        r->lost_at = 0;
    }
}

static void got_body(void *who, const char *p, size_t length) {
    reader *r = who;
    bytes += length;
    find_events(&r->find, p, length, got_event, r);
}

static bool join(reader *r) {
    char target[512], request[768];
    r->fd = connect_to(port, pace ? 4096 : 0);
    if (r->fd < 0) return false;
    fill(target, sizeof target, path, r->run, r->last);
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n\r\n", target, port);
    next_response(&r->reply);
    r->find.matched = 0;
    r->joined_at = now_us();
    if (!pace) watch(epoll, r->fd, r, EPOLLIN);
    return send_all(r->fd, request, (size_t)length);
}

static void leave(reader *r, bool clean) {
    close(r->fd);
    r->fd = -1;
    if (clean) ended++;
    else lost++;
    if (r->up) r->up = false, up--;
    if (!r->lost_at) r->lost_at = now_us();
    if (fallback) port = fallback;
}

static void hear(reader *r) {
    static char buffer[1 << 18];
    ssize_t n = recv(r->fd, buffer, pace ? (size_t)pace / TICKS : sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        leave(r, false);
        return;
    }
    feed(&r->reply, buffer, (size_t)n, got_body, r);
    if (r->reply.state == HEAD) return;
    if (r->reply.status != 200) {
        if (!r->lost_at) die("a reader was answered %d: %s", r->reply.status, r->reply.head);
        refused++;
        leave(r, false);
        return;
    }
    if (!r->up) {
        r->up = true;
        if (++up == readers && opened == readers && !lost && !ended) printf("{\"event\":\"ready\"}\n"), fflush(stdout);
    }
    if (r->reply.state == DONE) leave(r, true);
}

static void print_stats(void) {
    uint64_t total = 0, least = UINT64_MAX;
    for (int i = 0; i < readers; i++) {
        total += all[i].last;
        if (all[i].last < least) least = all[i].last;
    }
    printf("{\"up\":%d,\"events\":%llu,\"gaps\":%llu,\"repeats\":%llu,\"bytes\":%llu,\"lost\":%llu,\"ended\":%llu,"
           "\"recovered\":%llu,\"refused\":%llu,\"reached\":%llu,\"least\":%llu",
           up, (unsigned long long)events, (unsigned long long)gaps, (unsigned long long)repeats,
           (unsigned long long)bytes, (unsigned long long)lost, (unsigned long long)ended,
           (unsigned long long)recovered, (unsigned long long)refused, (unsigned long long)total,
           (unsigned long long)least);
    print_histogram("latency", &latency);
    print_histogram("recovery", &recovery);
    printf("}\n");
    fflush(stdout);
}

static void obey(void) {
    char what = command();
    if (what == 'm') {
        /* Gaps and repeats stay: what went wrong before the mark went wrong. */
        events = bytes = 0;
        memset(&latency, 0, sizeof latency);
    }
    if (what == 'h' && pace) {
        pace = 0;
        for (int i = 0; i < readers; i++)
            if (all[i].fd >= 0) watch(epoll, all[i].fd, &all[i], EPOLLIN);
    }
    if (what != 'q') print_stats();
    if (what == 'q' || what == 'x') exit(0);
}

/* Opens what is not open, a hundred at a time, so that those that are get read meanwhile. */
static void open_some(void) {
    int batch = 100;
    for (; opened < readers && batch; opened++, batch--)
        if (!join(&all[opened])) die("cannot connect to port %d: %s", port, strerror(errno));
    if (opened < readers || up == readers) return;
    for (int i = 0; i < readers; i++)
        if (all[i].fd < 0 && !join(&all[i])) leave(&all[i], false);
}

/* Lets everybody with a pace read a little, ten times a second. */
static void read_slowly(void) {
    static uint64_t next;
    if (now_us() < next) return;
    next = now_us() + 1000000 / TICKS;
    for (int i = 0; i < readers; i++)
        if (all[i].fd >= 0) hear(&all[i]);
}

int main(int argc, char **argv) {
    struct epoll_event ready[512];
    begin();
    port = number(argc, argv, "--port", NULL);
    fallback = number(argc, argv, "--fallback", "0");
    path = option(argc, argv, "--path", NULL);
    pace = number(argc, argv, "--pace", "0");
    readers = number(argc, argv, "--readers", NULL);
    unsigned runs = (unsigned)number(argc, argv, "--runs", "1");
    unsigned base = (unsigned)number(argc, argv, "--base", "0");
    all = calloc((size_t)readers, sizeof *all);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, 0, NULL, EPOLLIN);
    for (int i = 0; i < readers; i++) all[i].run = base + (unsigned)i % runs, all[i].fd = -1;
    for (;;) {
        open_some();
        if (pace) read_slowly();
        int n = epoll_wait(epoll, ready, 512, opened < readers ? 0 : up < readers || pace ? 20 : -1);
        for (int i = 0; i < n; i++) {
            if (!ready[i].data.ptr) obey();
            else hear(ready[i].data.ptr);
        }
    }
}
