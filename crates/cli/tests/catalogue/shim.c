/* Intercepts a process's file calls: makes chosen calls fail, shortens transfers, or kills the process at a call.
 *
 * Only calls on files below SHIM_ROOT count. SHIM_LOG gets one line per counted call: its name, its file,
 * and whether the shim refused it or the system failed it.
 *   SHIM_CALL    the calls to match: open, create, write, read, fsync, link, rename, unlink, mkdir, or any but reads
 *   SHIM_FIRST   number of the first call affected, from 1; 0 affects none
 *   SHIM_COUNT   number of calls affected
 *   SHIM_ERRNO   errno of affected calls, which are not made
 *   SHIM_KILL    instead of failing: "before" or "after" kills the process at the call; "stop" stops it before the
 *                call, which is made once the process is continued
 *   SHIM_BYTES   maximum bytes per read or write; every second one is interrupted first
 *   SHIM_HASTE   speed-up of time, from the first affected call if one is set: otherwise a slow start of the process
 *                would look like a slow store
 *   SHIM_YEARS   offset of the wall clock, in years
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static struct {
    const char *root, *call, *kill;
    long first, count, error, bytes, haste, years;
    int log;
} shim;
static atomic_long met, transfers;

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

__attribute__((constructor)) static void start(void) {
    shim.root = getenv("SHIM_ROOT");
    shim.call = getenv("SHIM_CALL");
    shim.kill = getenv("SHIM_KILL");
    shim.first = number("SHIM_FIRST");
    shim.count = number("SHIM_COUNT");
    shim.error = number("SHIM_ERRNO");
    shim.bytes = number("SHIM_BYTES");
    shim.haste = number("SHIM_HASTE");
    shim.years = number("SHIM_YEARS");
    const char *log = getenv("SHIM_LOG");
    shim.log = log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
}

static int below_root(const char *path) {
    size_t length = shim.root ? strlen(shim.root) : 0;
    return length && path && strncmp(path, shim.root, length) == 0;
}

static const char *path_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, PATH_MAX - 1);
    buffer[length > 0 ? length : 0] = 0;
    return buffer;
}

static void note(const char *call, const char *path, const char *outcome) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %s%s\n", call, path, outcome);
    if (shim.log >= 0)
        syscall(SYS_write, shim.log, line, (size_t)length);
}

/* Counts a call. Returns 1 if the call is affected. */
static int meets(const char *call, const char *path) {
    int any = shim.call && !strcmp(shim.call, "any") && strcmp(call, "read");
    if (!below_root(path) || !shim.call || (!any && strcmp(shim.call, call)))
        return 0;
    long at = atomic_fetch_add(&met, 1) + 1;
    return shim.first && at >= shim.first && at - shim.first < shim.count;
}

static int in_haste(void) {
    return shim.haste > 1 && (!shim.call || !shim.first || atomic_load(&met) >= shim.first);
}

static void die(void) { kill(getpid(), SIGKILL); }

static int stops(void) { return shim.kill && !strcmp(shim.kill, "stop"); }

/* Returns 1, with errno set, if the call is refused. */
static int refuses(int meets, const char *call, const char *path) {
    if (!meets)
        return 0;
    if (shim.kill && !strcmp(shim.kill, "before"))
        die();
    if (stops())
        raise(SIGSTOP); /* raise, not kill: this thread must stop before the call */
    if (shim.kill)
        return 0;
    note(call, path, " refused");
    errno = (int)shim.error;
    return 1;
}

static void made(int meets, const char *call, const char *path, int failed) {
    int kept = errno;
    if (below_root(path))
        note(call, path, failed ? " failed" : "");
    if (meets && !stops())
        die();
    errno = kept;
}

#define THROUGH(type, call, path, expression)                                                                          \
    int met_here = meets(call, path);                                                                                  \
    if (refuses(met_here, call, path))                                                                                 \
        return -1;                                                                                                     \
    type result = expression;                                                                                          \
    made(met_here, call, path, result < 0);                                                                            \
    return result

static int opened(const char *path, int flags, mode_t mode) {
    const char *call = flags & O_CREAT ? "create" : "open";
    THROUGH(int, call, path, (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}

/* Returns the length of a shortened transfer; 0 if interrupted. */
static size_t share(size_t length) {
    if (!shim.bytes)
        return length;
    if (atomic_fetch_add(&transfers, 1) % 2 == 0) {
        errno = EINTR;
        return 0;
    }
    return length < (size_t)shim.bytes ? length : (size_t)shim.bytes;
}

static ssize_t transferred(const char *call, long syscall_number, int fd, void *bytes, size_t length) {
    char path[PATH_MAX];
    path_of(fd, path);
    if (!below_root(path))
        return syscall(syscall_number, fd, bytes, length);
    size_t part = length ? share(length) : 0;
    if (length && !part)
        return -1;
    THROUGH(ssize_t, call, path, syscall(syscall_number, fd, bytes, part));
}
ssize_t write(int fd, const void *bytes, size_t length) {
    return transferred("write", SYS_write, fd, (void *)bytes, length);
}
ssize_t read(int fd, void *bytes, size_t length) { return transferred("read", SYS_read, fd, bytes, length); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    for (int at = 0; at < count; at++)
        if (parts[at].iov_len)
            return write(fd, parts[at].iov_base, parts[at].iov_len);
    return 0;
}

static int synced(long syscall_number, int fd) {
    char path[PATH_MAX];
    THROUGH(int, "fsync", path_of(fd, path), (int)syscall(syscall_number, fd));
}
int fsync(int fd) { return synced(SYS_fsync, fd); }
int fdatasync(int fd) { return synced(SYS_fdatasync, fd); }

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
    THROUGH(int, "link", to, (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags));
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int rename(const char *from, const char *to) {
    THROUGH(int, "rename", to, (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
int unlink(const char *path) { THROUGH(int, "unlink", path, (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0)); }
int mkdir(const char *path, mode_t mode) {
    THROUGH(int, "mkdir", path, (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static atomic_long started[2];
    if (syscall(SYS_clock_gettime, clock, time))
        return -1;
    if (in_haste() && (clock == CLOCK_MONOTONIC || clock == CLOCK_REALTIME)) {
        long now = time->tv_sec * 1000000000L + time->tv_nsec, none = 0;
        atomic_compare_exchange_strong(&started[clock == CLOCK_REALTIME], &none, now);
        long since = atomic_load(&started[clock == CLOCK_REALTIME]);
        now = since + (now - since) * shim.haste;
        time->tv_sec = now / 1000000000L;
        time->tv_nsec = now % 1000000000L;
    }
    if (clock == CLOCK_REALTIME)
        time->tv_sec += shim.years * 31556952L;
    return 0;
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout_ms) {
    if (timeout_ms > 0 && in_haste())
        timeout_ms = timeout_ms / (int)shim.haste + 1;
    return REAL(epoll_wait)(fd, events, count, timeout_ms);
}
