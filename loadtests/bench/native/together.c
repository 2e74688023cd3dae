/* One process that writes to many runs: what comes up while its requests are under way goes together, by /v1/appends.
 *
 *   together --port P --stream PATTERN --runs R --rate PER_RUN [--connections C] [--size BYTES] [--gather MS] [--most N]
 *
 * As with writers.c, each run's events are due at even intervals, the runs' evenly between each other's. Each connection
 * has its share of the runs, and one request under way; the next goes when that is answered, `gather` after it at the
 * earliest, with at most `most` appends. Commands and the line that is printed are those of writers.c. */
#include "events.h"
#include "http.h"

typedef struct {
    char head[256];
    int head_length, due;
    uint64_t next;
} run;

typedef struct {
    int fd, step, waiting; /* its first run; appends of the request that is under way */
    uint64_t sent_at;
    response reply;
    int matched, answered;
    char *request;
} connection;

static int port, connections, runs, size, most, timer = -1;
static bool stopping;
static double rate;
static run *all_runs;
static connection *all;
static uint64_t requests, events, started, issued, marked_at, gather;
static histogram latency;

/* Every outcome's status is a success, or the bench is over. */
static void judge(void *who, const char *p, size_t length) {
    static const char mark[] = "\"status\":";
    connection *c = who;
    for (size_t i = 0; i < length; i++) {
        if (c->matched == (int)sizeof mark - 1) {
            if (p[i] != '2') die("an append was refused");
            c->answered++;
            c->matched = 0;
        } else {
            c->matched = p[i] == mark[c->matched] ? c->matched + 1 : p[i] == mark[0];
        }
    }
}

static void post(connection *c, uint64_t now) {
    char *at = c->request + 256;
    int count = 0, length;
    for (int i = c->step; i < runs && count < most; i += connections) {
        run *r = &all_runs[i];
        if (!r->due) continue;
        memcpy(at, r->head, (size_t)r->head_length);
        at += r->head_length;
        blank_event(at, size);
        stamp_event(at, r->next++, now);
        at += size;
        *at++ = '\n';
        r->due--;
        count++;
    }
    if (!count) return;
    char head[256];
    length = (int)(at - c->request - 256);
    int head_length = snprintf(head, sizeof head, "POST /v1/appends HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                               "Content-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n", port, length);
    char *request = c->request + 256 - head_length;
    memcpy(request, head, (size_t)head_length);
    c->waiting = count;
    c->answered = c->matched = 0;
    c->sent_at = now;
    next_response(&c->reply);
    if (!send_all(c->fd, request, (size_t)(head_length + length))) die("a request could not be sent: %s", strerror(errno));
}

static void hear(connection *c) {
    static char buffer[1 << 18];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) die("the connection was closed (%s)", n ? strerror(errno) : "cleanly");
    feed(&c->reply, buffer, (size_t)n, judge, c);
    if (c->reply.state != DONE) return;
    if (c->reply.status != 200 || c->answered != c->waiting) die("answered %s", c->reply.head);
    requests++;
    events += (uint64_t)c->waiting;
    record(&latency, now_us() - c->sent_at);
    c->waiting = 0;
}

static void tick(void) {
    uint64_t expirations, now = now_us();
    if (read(timer, &expirations, sizeof expirations) < 0) return;
    while (!stopping && started + (uint64_t)((double)issued * 1e6 / (rate * runs)) <= now)
        all_runs[issued++ % (uint64_t)runs].due++;
    for (int i = 0; i < connections; i++)
        if (!all[i].waiting && all[i].sent_at + gather <= now) post(&all[i], now);
}

static bool idle(void) {
    for (int i = 0; i < runs; i++)
        if (all_runs[i].due) return false;
    for (int i = 0; i < connections; i++)
        if (all[i].waiting) return false;
    return true;
}

static void print_stats(void) {
    uint64_t written = 0, behind = 0;
    for (int i = 0; i < runs; i++) written += all_runs[i].next - 1, behind += (uint64_t)all_runs[i].due;
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

int main(int argc, char **argv) {
    struct epoll_event ready[64];
    begin();
    port = number(argc, argv, "--port", NULL);
    runs = number(argc, argv, "--runs", NULL);
    connections = number(argc, argv, "--connections", "1");
    size = number(argc, argv, "--size", "64");
    most = number(argc, argv, "--most", "500");
    gather = (uint64_t)number(argc, argv, "--gather", "5") * 1000;
    rate = atof(option(argc, argv, "--rate", NULL));
    all_runs = calloc((size_t)runs, sizeof *all_runs);
    all = calloc((size_t)connections, sizeof *all);
    for (int i = 0; i < runs; i++) {
        char stream[128];
        fill(stream, sizeof stream, option(argc, argv, "--stream", NULL), (unsigned)i, 0);
        all_runs[i].head_length =
            snprintf(all_runs[i].head, sizeof all_runs[i].head, "{\"stream\":\"%s\"}\n", stream);
        all_runs[i].next = 1;
    }
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, 0, NULL, EPOLLIN);
    for (int i = 0; i < connections; i++) {
        connection *c = &all[i];
        c->fd = connect_to(port, 0);
        if (c->fd < 0) die("cannot connect to port %d: %s", port, strerror(errno));
        c->step = i;
        c->request = malloc(256 + (size_t)most * (size_t)(size + 257));
        watch(epoll, c->fd, c, EPOLLIN);
    }
    started = marked_at = now_us();
    struct itimerspec every = {.it_value = {.tv_nsec = 1000000}, .it_interval = {.tv_nsec = 1000000}};
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    watch(epoll, timer, &timer, EPOLLIN);
    timerfd_settime(timer, 0, &every, NULL);
    while (!(stopping && idle())) {
        int n = epoll_wait(epoll, ready, 64, -1);
        for (int i = 0; i < n; i++) {
            if (!ready[i].data.ptr) obey();
            else if (ready[i].data.ptr == &timer) tick();
            else hear(ready[i].data.ptr);
        }
    }
    print_stats();
    return 0;
}
