/* What the C programs of the bench share: the clock, sockets on loopback, and histograms.
 *
 * They stand in C so that the client's cost does not blur the server's: the machine has few cores. */
#ifndef BENCH_NET_H
#define BENCH_NET_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static void die(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    vfprintf(stderr, format, rest);
    va_end(rest);
    fputc('\n', stderr);
    exit(1);
}

/* Microseconds of CLOCK_MONOTONIC: one clock for all processes of a machine. */
static inline uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* Ends with its parent, ignores broken pipes, and may have as many sockets as it is allowed. */
static inline void begin(void) {
    struct rlimit limit;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static inline struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* A connected socket that does not block, or -1. `window`: bytes that may wait in it unread; 0: as many as usual. */
static inline int connect_to(int port, int window) {
    struct sockaddr_in address = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket: %s", strerror(errno));
    if (window) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

static inline void watch(int epoll, int fd, void *what, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = what};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl: %s", strerror(errno));
}

/* Requests are small and a socket's buffer is not: a short write is a fault, not a state. */
static inline bool send_all(int fd, const char *bytes, size_t length) {
    while (length) {
        ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
        if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        } else if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            if (poll(&writable, 1, 10000) <= 0) return false;
        } else if (!(sent < 0 && errno == EINTR)) {
            return false;
        }
    }
    return true;
}

/* Log-linear: 128 buckets to a power of two, so a value is known to within 0.8 %. */
#define SUB_BITS 7
#define BUCKETS (48 << SUB_BITS)
typedef struct {
    uint64_t count[BUCKETS];
} histogram;

static inline void record(histogram *h, uint64_t value) {
    unsigned bucket = (unsigned)value;
    if (value >> SUB_BITS) {
        unsigned e = 63u - (unsigned)__builtin_clzll(value);
        bucket = ((e - SUB_BITS + 1) << SUB_BITS) + (unsigned)((value >> (e - SUB_BITS)) & ((1u << SUB_BITS) - 1));
    }
    h->count[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

/* `[[value, count], …]`, with the middle of each bucket as its value. */
static inline void print_histogram(const char *name, const histogram *h) {
    const char *comma = "";
    printf(",\"%s\":[", name);
    for (unsigned b = 0; b < BUCKETS; b++) {
        if (!h->count[b]) continue;
        uint64_t value = b;
        if (b >> SUB_BITS) {
            unsigned shift = (b >> SUB_BITS) - 1;
            value = ((uint64_t)((1u << SUB_BITS) + (b & ((1u << SUB_BITS) - 1))) << shift) + (((uint64_t)1 << shift) >> 1);
        }
        printf("%s[%llu,%llu]", comma, (unsigned long long)value, (unsigned long long)h->count[b]);
        comma = ",";
    }
    printf("]");
}

/* One command from stdin ("mark", "stats", "hurry" or "stop"); 'q' at its end: whoever started this has gone. */
static inline char command(void) {
    char line[64];
    ssize_t n = read(0, line, sizeof line - 1);
    if (n <= 0) return 'q';
    line[n] = 0;
    if (!strcmp(line, "mark\n")) return 'm';
    if (!strcmp(line, "stats\n")) return 's';
    if (!strcmp(line, "hurry\n")) return 'h';
    if (!strcmp(line, "stop\n")) return 'x';
    die("no such command: %s", line);
    return 'q';
}

/* `--name value` from the command line, or the default. */
static inline const char *option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], name)) return argv[i + 1];
    if (!otherwise) die("%s is missing", name);
    return otherwise;
}

static inline int number(int argc, char **argv, const char *name, const char *otherwise) {
    return atoi(option(argc, argv, name, otherwise));
}

/* Writes `pattern` with the run for %r and a position of 16 digits for %o; returns the length. */
static inline int fill(char *out, size_t room, const char *pattern, unsigned run, uint64_t position) {
    int length = 0;
    for (const char *p = pattern; *p; p++) {
        size_t left = room - (size_t)length;
        if (p[0] == '%' && p[1] == 'r')
            length += snprintf(out + length, left, "%u", run), p++;
        else if (p[0] == '%' && p[1] == 'o')
            length += snprintf(out + length, left, "%016llu", (unsigned long long)position), p++;
        else
            length += snprintf(out + length, left, "%c", *p);
        if ((size_t)length >= room) die("too long: %s", pattern);
    }
    return length;
}

#endif
