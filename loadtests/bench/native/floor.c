/* The least that a server can do: what the kernel takes to receive a POST, answer it, and send() its frame.
 *
 *   floor --port P
 *
 * GET /<anything>/<run> is a reader of the run, POST /<anything>/<run> an event for it. Frames are as long as the
 * gateway's. Nothing is judged, kept or escaped, and a socket that is full is waited for. */
#include "http.h"

#define RUNS 65536

typedef struct {
    int fd, length;
    bool reads;
    char buffer[16384];
} client;

static struct {
    int *fds, count, room;
    uint64_t last;
} runs[RUNS];
static int epoll;

static const char HELLO[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
static const char TAKEN[] = "HTTP/1.1 204 No Content\r\n\r\n";

static unsigned run_of(const char *request) {
    const char *end = strchr(strchr(request, ' ') + 1, ' ');
    for (const char *p = request; p < end; p++)
        if (*p == '?') end = p;
    const char *digits = end;
    while (digits[-1] >= '0' && digits[-1] <= '9') digits--;
    return (unsigned)atoi(digits) % RUNS;
}

static int build_frame(char *out, const char *body, int length, uint64_t n) {
    static char frame[32768];
    char offset[40];
    snprintf(offset, sizeof offset, "0000000000000000_%016llu", (unsigned long long)n);
    int size = snprintf(frame, sizeof frame,
                        "id: %s\nevent: data\ndata:[%.*s]\n\nid: %s\nevent: control\n"
                        "data:{\"streamNextOffset\":\"%s\",\"streamCursor\":\"15000000\",\"upToDate\":true}\n\n",
                        offset, length, body, offset, offset);
    return sprintf(out, "%x\r\n%.*s\r\n", (unsigned)size, size, frame);
}

static void deliver(unsigned run, const char *body, int length) {
    static char out[33000];
    int size = build_frame(out, body, length, ++runs[run].last);
    for (int i = 0; i < runs[run].count; i++) send_all(runs[run].fds[i], out, (size_t)size);
}

static void subscribe(client *c, unsigned run) {
    c->reads = true;
    if (runs[run].count == runs[run].room) {
        runs[run].room = runs[run].room ? 2 * runs[run].room : 1;
        runs[run].fds = realloc(runs[run].fds, sizeof(int) * (size_t)runs[run].room);
    }
    runs[run].fds[runs[run].count++] = c->fd;
    send_all(c->fd, HELLO, sizeof HELLO - 1);
}

/* The whole request that the buffer begins with, if it is there; returns its length. */
static int answer(client *c) {
    c->buffer[c->length] = 0;
    char *body = strstr(c->buffer, "\r\n\r\n");
    if (!body) return 0;
    body += 4;
    if (c->buffer[0] == 'G') {
        subscribe(c, run_of(c->buffer));
        return (int)(body - c->buffer);
    }
    const char *size = strcasestr(c->buffer, "\r\ncontent-length:");
    int length = size ? atoi(size + 17) : 0;
    if (body + length > c->buffer + c->length) return 0;
    send_all(c->fd, TAKEN, sizeof TAKEN - 1);
    if (length) deliver(run_of(c->buffer), body, length);
    return (int)(body - c->buffer) + length;
}

static void forget(client *c) {
    if (c->reads)
        for (int run = 0; run < RUNS; run++)
            for (int i = 0; i < runs[run].count; i++)
                if (runs[run].fds[i] == c->fd) runs[run].fds[i--] = runs[run].fds[--runs[run].count];
    close(c->fd);
    free(c);
}

static void hear(client *c) {
    ssize_t n = recv(c->fd, c->buffer + c->length, sizeof c->buffer - 1 - (size_t)c->length, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        forget(c);
        return;
    }
    c->length += (int)n;
    for (int taken; c->length && (taken = answer(c)); c->length -= taken)
        memmove(c->buffer, c->buffer + taken, (size_t)(c->length - taken));
}

static void take(int listening) {
    int fd, one = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        client *c = malloc(sizeof *c);
        c->fd = fd;
        c->length = 0;
        c->reads = false;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(epoll, fd, c, EPOLLIN);
    }
}

int main(int argc, char **argv) {
    struct epoll_event ready[512];
    struct sockaddr_in address = loopback(number(argc, argv, "--port", NULL));
    int one = 1, listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    begin();
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) < 0) die("bind: %s", strerror(errno));
    listen(listening, 4096);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listening, NULL, EPOLLIN);
    for (;;) {
        int n = epoll_wait(epoll, ready, 512, -1);
        for (int i = 0; i < n; i++) {
            if (ready[i].data.ptr) hear(ready[i].data.ptr);
            else take(listening);
        }
    }
}
