/* For tests/bench/icom: while the file $STALL_FLAG exists, every change below $STALL_DIR waits, as on a disk that hangs.
   LD_PRELOADed into the listener; the listener knows nothing of it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void wait_for(const char *path) {
    const char *dir = getenv("STALL_DIR"), *flag = getenv("STALL_FLAG");
    if (!dir || !flag || !path || strncmp(path, dir, strlen(dir)) != 0) return;
    while (access(flag, F_OK) == 0) usleep(10000);
}

static void wait_for_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n > 0) { path[n] = 0; wait_for(path); }
}

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    if (flags & (O_CREAT | O_WRONLY | O_RDWR)) wait_for(path);
    return REAL(int, "open64", const char *, int, ...)(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    if (flags & (O_CREAT | O_WRONLY | O_RDWR)) wait_for(path);
    return REAL(int, "open", const char *, int, ...)(path, flags, mode);
}
ssize_t write(int fd, const void *bytes, size_t n) { wait_for_fd(fd); return REAL(ssize_t, "write", int, const void *, size_t)(fd, bytes, n); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) { wait_for_fd(fd); return REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, bytes, n, at); }
int fsync(int fd) { wait_for_fd(fd); return REAL(int, "fsync", int)(fd); }
int fdatasync(int fd) { wait_for_fd(fd); return REAL(int, "fdatasync", int)(fd); }
int rename(const char *from, const char *to) { wait_for(to); return REAL(int, "rename", const char *, const char *)(from, to); }
int mkdir(const char *path, mode_t mode) { wait_for(path); return REAL(int, "mkdir", const char *, mode_t)(path, mode); }
