/* For tests/tests/durability.rs: notes in $CALLS_FILE, line by line, what a program asks of the disk below $CALLS_DIR, and when
   it answers on a socket. LD_PRELOADed; the program knows nothing of it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

static void note(const char *what, const char *a, const char *b) {
    const char *file = getenv("CALLS_FILE"), *dir = getenv("CALLS_DIR");
    if (!file || !dir || (a && strncmp(a, dir, strlen(dir)) != 0)) return;
    char line[8400];
    int n = snprintf(line, sizeof line, "%s\t%s\t%s\n", what, a ? a : "", b ? b : "");
    int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (n > 0 && write(fd, line, (size_t)n) < 0) abort();
        close(fd);
    }
}

static void note_fd(const char *what, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n > 0) { path[n] = 0; note(what, path, 0); }
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

/* A sync counts when it has ended, a rename and an answer when they begin. */
int fsync(int fd) { int r = REAL(int, "fsync", int)(fd); note_fd("sync", fd); return r; }
int fdatasync(int fd) { int r = REAL(int, "fdatasync", int)(fd); note_fd("sync", fd); return r; }
int rename(const char *from, const char *to) { note("rename", from, to); return REAL(int, "rename", const char *, const char *)(from, to); }
ssize_t send(int fd, const void *bytes, size_t n, int flags) { note("send", 0, 0); return REAL(ssize_t, "send", int, const void *, size_t, int)(fd, bytes, n, flags); }
