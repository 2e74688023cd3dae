/* Readers that read a run from its start to its end as fast as they get it, page after page.
 *
 *   catchup --port P --path PATTERN --readers N --events E
 *
 * The first page is that of position 0; the next begins at Stream-Next-Offset, until Stream-Up-To-Date. Each reader
 * must see the events 1 … E once and in order. Prints its line when all have, with the seconds that all took. */
#include "events.h"
#include "http.h"

typedef struct {
    int fd;
    uint64_t last, pages;
    double seconds;
    response reply;
    finder find;
} reader;

static int port;
static uint64_t bytes, faults, wanted, began;
static const char *path;

static void got_event(void *who, uint64_t n, uint64_t t) {
    reader *r = who;
    (void)t;
    if (n != r->last + 1) faults++;
    r->last = n;
}

static void got_body(void *who, const char *p, size_t length) {
    reader *r = who;
    bytes += length;
    find_events(&r->find, p, length, got_event, r);
}

static void ask(reader *r, const char *offset) {
    char target[512], request[768];
    const char *query = strchr(path, '?');
    int base = query ? (int)(query - path) : (int)strlen(path);
    snprintf(target, sizeof target, "%.*s?offset=%s", base, path, offset);
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", target, port);
    next_response(&r->reply);
    r->pages++;
    if (!send_all(r->fd, request, (size_t)length)) die("a request could not be sent: %s", strerror(errno));
}

/* After a page: whether there is more, which is then asked for. */
static bool more(reader *r) {
    char offset[128];
    if (r->reply.status != 200) die("a reader was answered %s", r->reply.head);
    if (header(&r->reply, "stream-up-to-date")) return false;
    const char *next = header(&r->reply, "stream-next-offset");
    if (!next) die("no Stream-Next-Offset in %s", r->reply.head);
    snprintf(offset, sizeof offset, "%.*s", (int)strcspn(next, "\r\n"), next);
    ask(r, offset);
    return true;
}

/* Whether this reader has come to the end. */
static bool hear(reader *r) {
    static char buffer[1 << 18];
    ssize_t n = recv(r->fd, buffer, sizeof buffer, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (n <= 0) die("a reader's connection was closed at event %llu", (unsigned long long)r->last);
    feed(&r->reply, buffer, (size_t)n, got_body, r);
    if (r->reply.state != DONE || more(r)) return false;
    r->seconds = (double)(now_us() - began) / 1e6;
    if (r->last != wanted) faults++;
    close(r->fd);
    return true;
}

int main(int argc, char **argv) {
    struct epoll_event ready[128];
    begin();
    port = number(argc, argv, "--port", NULL);
    path = option(argc, argv, "--path", NULL);
    wanted = (uint64_t)number(argc, argv, "--events", NULL);
    int readers = number(argc, argv, "--readers", NULL), left = readers, epoll = epoll_create1(EPOLL_CLOEXEC);
    reader *all = calloc((size_t)readers, sizeof *all);
    for (int i = 0; i < readers; i++) {
        all[i].fd = connect_to(port, 0);
        if (all[i].fd < 0) die("cannot connect to port %d: %s", port, strerror(errno));
        watch(epoll, all[i].fd, &all[i], EPOLLIN);
    }
    began = now_us();
    for (int i = 0; i < readers; i++) ask(&all[i], "-1");
    while (left) {
        int n = epoll_wait(epoll, ready, 128, -1);
        for (int i = 0; i < n; i++) left -= hear(ready[i].data.ptr);
    }
    uint64_t pages = 0;
    for (int i = 0; i < readers; i++) pages += all[i].pages;
    printf("{\"seconds\":%.6f,\"bytes\":%llu,\"faults\":%llu,\"pages\":%llu}\n", (double)(now_us() - began) / 1e6,
           (unsigned long long)bytes, (unsigned long long)faults, (unsigned long long)pages);
    return 0;
}
