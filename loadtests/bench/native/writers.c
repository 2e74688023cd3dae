/* Many writers in one process: keep-alive connections that POST ready-made requests, one at a time each.
 *
 *   writers --port P --path PATTERN --connections C --runs R [--size BYTES] [--batch EVENTS] [--rate PER_RUN]
 *           [--base RUN] [--total REQUESTS] [--method PUT --once 1] [--headers TEXT]
 *
 * A run belongs to one connection, so that its events are in order. With a rate, each run's events are due at even
 * intervals, the runs' evenly between each other's; without, a connection sends as soon as it was answered. "stop"
 * (and the total) sends no more, and prints its line when all have been answered; "mark" counts from here. */
#include "events.h"
#include "http.h"

typedef struct {
    char *request;
    int length, body;
    uint64_t next, due; /* number of its next event; how many requests are waiting for their turn */
} run;

typedef struct {
    int fd, run, step;
    uint64_t sent_at;
    response reply;
} connection;

static int port, connections, runs, size, batch, timer = -1, finished;
static bool stopping, once, put;
static double rate;
static run *all_runs;
static connection *all;
static uint64_t requests, events, waiting, started, issued, marked_at, sent, total;
static histogram latency;

static void prepare(run *r, unsigned index, const char *pattern, const char *headers) {
    char target[512];
    int length = put ? 0 : batch * size + (batch > 1 ? batch + 1 : 0);
    fill(target, sizeof target, pattern, index, 0);
    r->request = malloc((size_t)length + 1024);
    r->body = snprintf(r->request, 1024, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%sContent-Length: %d\r\n\r\n",
                       put ? "PUT" : "POST", target, port, headers, length);
    r->length = r->body + length;
    if (put) return;
    char *at = r->request + r->body;
    if (batch > 1) *at++ = '[';
    for (int i = 0; i < batch; i++, at += size + 1) {
        blank_event(at, size);
        if (batch > 1) at[size] = i + 1 < batch ? ',' : ']';
    }
}

static void stamp(run *r, uint64_t now) {
    char *at = r->request + r->body + (batch > 1);
    for (int i = 0; i < batch; i++, at += size + 1) stamp_event(at, r->next++, now);
}

static void send_request(connection *c) {
    run *r = &all_runs[c->run];
    c->sent_at = now_us();
    if (++sent == total) stopping = true;
    if (!put) stamp(r, c->sent_at);
    waiting++;
    next_response(&c->reply);
    if (!send_all(c->fd, r->request, (size_t)r->length)) die("a request could not be sent: %s", strerror(errno));
}

/* The connection's next run in turn; with a rate, the next one that is due. */
static bool choose(connection *c) {
    int mine = (runs - 1 - c->step) / connections + 1; /* it has runs step, step + connections, … */
    for (int i = 0; i < mine; i++) {
        c->run += connections;
        if (c->run >= runs) {
            if (once) return false;
            c->run = c->step;
        }
        if (rate == 0) return true;
        if (all_runs[c->run].due) {
            all_runs[c->run].due--;
            return true;
        }
    }
    return false;
}

static void go_on(connection *c) {
    if (!stopping && choose(c)) send_request(c);
    else if (once) finished++;
}

static void answered(connection *c) {
    waiting--;
    if (c->reply.status < 200 || c->reply.status > 299) die("a writer was answered %s", c->reply.head);
    requests++;
    events += put ? 0 : (uint64_t)batch;
    record(&latency, now_us() - c->sent_at);
    go_on(c);
}

static void hear(connection *c) {
    static char buffer[1 << 16];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) die("a writer's connection was closed (%s)", n ? strerror(errno) : "cleanly");
    size_t taken = feed(&c->reply, buffer, (size_t)n, NULL, NULL);
    if (taken < (size_t)n) die("more came than one answer");
    if (c->reply.state == DONE) answered(c);
}

/* Makes due what is due by now: the k-th request of all is run k % runs, at k intervals after the start. */
static void keep_pace(void) {
    uint64_t expirations, now = now_us();
    if (read(timer, &expirations, sizeof expirations) < 0) return;
    if (stopping) return;
    while (started + (uint64_t)((double)issued * 1e6 / (rate * runs)) <= now) {
        run *r = &all_runs[issued % (uint64_t)runs];
        connection *c = &all[(issued % (uint64_t)runs) % (uint64_t)connections];
        r->due++;
        issued++;
        if (c->reply.state == DONE) go_on(c);
    }
    uint64_t due = started + (uint64_t)((double)issued * 1e6 / (rate * runs));
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(due / 1000000), .tv_nsec = (long)(due % 1000000) * 1000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void print_stats(void) {
    uint64_t written = 0, behind = 0;
    for (int i = 0; i < runs; i++) written += all_runs[i].next - 1, behind += all_runs[i].due;
    printf("{\"requests\":%llu,\"events\":%llu,\"seconds\":%.6f,\"written\":%llu,\"behind\":%llu",
           (unsigned long long)requests, (unsigned long long)events, (double)(now_us() - marked_at) / 1e6,
           (unsigned long long)written, (unsigned long long)behind);
    print_histogram("latency", &latency);
    printf("}\n");
    fflush(stdout);
}

static void obey(void) {
    char what = command();
    if (what == 'q') exit(0);
    if (what == 'x') stopping = true;
    else print_stats();
    if (what == 'm') {
        requests = events = 0;
        marked_at = now_us();
        memset(&latency, 0, sizeof latency);
    }
}

static void open_all(int epoll) {
    for (int i = 0; i < connections; i++) {
        connection *c = &all[i];
        c->fd = connect_to(port, 0);
        if (c->fd < 0) die("cannot connect to port %d: %s", port, strerror(errno));
        c->step = i;
        c->run = i - connections; /* before its first one */
        c->reply.state = DONE;
        watch(epoll, c->fd, c, EPOLLIN);
    }
    started = marked_at = now_us();
    if (rate > 0) {
        struct itimerspec at_once = {.it_value = {.tv_nsec = 1}};
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        watch(epoll, timer, &timer, EPOLLIN);
        timerfd_settime(timer, 0, &at_once, NULL);
    } else {
        for (int i = 0; i < connections; i++) go_on(&all[i]);
    }
}

int main(int argc, char **argv) {
    struct epoll_event ready[512];
    begin();
    port = number(argc, argv, "--port", NULL);
    runs = number(argc, argv, "--runs", NULL);
    connections = number(argc, argv, "--connections", NULL);
    if (connections > runs) connections = runs;
    size = number(argc, argv, "--size", "64");
    batch = number(argc, argv, "--batch", "1");
    rate = atof(option(argc, argv, "--rate", "0"));
    total = strtoull(option(argc, argv, "--total", "0"), NULL, 10);
    once = number(argc, argv, "--once", "0");
    put = !strcmp(option(argc, argv, "--method", "POST"), "PUT");
    unsigned base = (unsigned)number(argc, argv, "--base", "0");
    all_runs = calloc((size_t)runs, sizeof *all_runs);
    all = calloc((size_t)connections, sizeof *all);
    for (int i = 0; i < runs; i++) {
        all_runs[i].next = 1;
        prepare(&all_runs[i], base + (unsigned)i, option(argc, argv, "--path", NULL),
                option(argc, argv, "--headers", "Content-Type: application/json\r\n"));
    }
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, 0, NULL, EPOLLIN);
    open_all(epoll);
    while (!((stopping && !waiting) || (once && finished == connections))) {
        int n = epoll_wait(epoll, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            if (!ready[i].data.ptr) obey();
            else if (ready[i].data.ptr == &timer) keep_pace();
            else hear(ready[i].data.ptr);
        }
    }
    print_stats();
    return 0;
}
