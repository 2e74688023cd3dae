/* A resolver in which names under .invalid (RFC 6761 §6.4) are looked for in vain, for a long time, and no packet is sent. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

static const char SUFFIX[] = ".invalid";
static const unsigned PATIENCE = 5; /* seconds, as resolv.conf(5) has it by default */

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    size_t length = host ? strlen(host) : 0, suffix = sizeof SUFFIX - 1;
    if (length >= suffix && !strcmp(host + length - suffix, SUFFIX)) {
        sleep(PATIENCE);
        return EAI_AGAIN;
    }
    if (!next)
        next = (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT, "getaddrinfo");
    return next(host, service, hints, found);
}
