/*
 * A failpoint in front of the system calls that change the disk: preloaded into the server, it counts them over the whole
 * process, all threads together, and ends the process or fails an operation where it is told to.
 *
 * Only what lies below CRASH_ROOT counts; the log of the server, sockets and other folders do not. By environment:
 *
 *   CRASH_ROOT=DIR     the folder, absolute and without links
 *   CRASH_MARK=FILE    is made when the failpoint fires, with the number and the name of the operation: the test's proof
 *   CRASH_LOG=FILE     every operation, one line each: number, name, path, what came of it
 *   CRASH_KILL_AT=N    SIGKILL in place of the N-th operation
 *   CRASH_TORN=1       a write that is killed writes its first half before
 *   CRASH_FULL_AT=N    from the N-th operation on, whatever needs room fails with ENOSPC ...
 *   CRASH_FULL_UNTIL=FILE  ... until this file exists
 *   CRASH_EIO_AT=N     the N-th sync (syncs are counted apart for this) fails with EIO
 *   CRASH_HANG=TEXT    a sync of what has this in its path never returns ...
 *   CRASH_HANG_FROM=FILE  ... once this file exists
 *
 * What is not seen: changes through mmap (SQLite's shared index, which holds nothing that must last), and system calls
 * that are made without the C library (rustix allocates room for segments so; the tests of that crate model it).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *root, *mark, *full_until, *hang, *hang_from;
static size_t root_len;
static long kill_at, full_at, eio_at;
static int torn, log_fd = -1;
static atomic_long operations, syncs;

enum kind { NEEDS_ROOM, SYNC, FREES_ROOM };

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

__attribute__((constructor)) static void begin(void) {
    root = getenv("CRASH_ROOT");
    root_len = root ? strlen(root) : 0;
    mark = getenv("CRASH_MARK");
    full_until = getenv("CRASH_FULL_UNTIL");
    kill_at = number("CRASH_KILL_AT");
    full_at = number("CRASH_FULL_AT");
    eio_at = number("CRASH_EIO_AT");
    hang = getenv("CRASH_HANG");
    hang_from = getenv("CRASH_HANG_FROM");
    torn = number("CRASH_TORN") != 0;
    const char *path = getenv("CRASH_LOG");
    if (path) log_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static int is_below(const char *path) {
    return root && strncmp(path, root, root_len) == 0 && (path[root_len] == '/' || path[root_len] == 0);
}

/* The path behind a descriptor, if it is one of ours. */
static int of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (len <= 0) return 0;
    path[len] = 0;
    return is_below(path);
}

static int of_name(int folder, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return is_below(path);
    }
    char parent[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, parent, sizeof parent) < 0) return 0;
    } else {
        of_fd(folder, parent);
    }
    if (snprintf(path, PATH_MAX, "%s/%s", parent, name) >= PATH_MAX) return 0;
    return is_below(path);
}

static void write_out(int fd, const char *format, ...) {
    char line[PATH_MAX + 128];
    va_list values;
    va_start(values, format);
    int len = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    if (fd >= 0 && len > 0) syscall(SYS_write, fd, line, (size_t)len < sizeof line ? (size_t)len : sizeof line - 1);
}

static void fired(long at, const char *operation, const char *path) {
    if (!mark) return;
    int fd = syscall(SYS_openat, AT_FDCWD, mark, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    write_out(fd, "%ld %s %s\n", at, operation, path);
    if (fd >= 0) syscall(SYS_close, fd);
}

static _Noreturn void die(void) {
    syscall(SYS_kill, (pid_t)syscall(SYS_getpid), SIGKILL);
    for (;;) pause();
}

static int is_there(const char *file) { return file && syscall(SYS_faccessat, AT_FDCWD, file, F_OK) == 0; }

static int is_full(void) { return !is_there(full_until); }

/* One operation, from the question whether it may happen to its line in the log. */
struct operation {
    long at;
    const char *name;
    char path[PATH_MAX];
};

/* 0: go on. Otherwise the error to fail with, or -1 for "write the first half, then die". */
static int before(struct operation *operation, const char *name, enum kind kind) {
    operation->name = name;
    operation->at = atomic_fetch_add(&operations, 1) + 1;
    if (kill_at && operation->at == kill_at) {
        fired(operation->at, name, operation->path);
        if (torn && (strcmp(name, "write") == 0 || strcmp(name, "pwrite") == 0)) return -1;
        die();
    }
    if (kind == SYNC) {
        long sync = atomic_fetch_add(&syncs, 1) + 1;
        if (eio_at && sync == eio_at) {
            fired(operation->at, name, operation->path);
            return EIO;
        }
        if (hang && strstr(operation->path, hang) && is_there(hang_from)) {
            fired(operation->at, name, operation->path);
            for (;;) pause();
        }
    }
    if (kind == NEEDS_ROOM && full_at && operation->at >= full_at && is_full()) {
        fired(operation->at, name, operation->path);
        return ENOSPC;
    }
    return 0;
}

static long after(const struct operation *operation, long result) {
    int error = errno;
    write_out(log_fd, "%ld %s %s %s\n", operation->at, operation->name, operation->path,
              result < 0 ? strerror(error) : "ok");
    errno = error;
    return result;
}

static int refuse(const struct operation *operation, int error) {
    errno = error;
    return (int)after(operation, -1);
}

/* Notes in the log when the head of an answer goes out, so that a test sees what came before it. */
static void note_answer(const void *bytes, size_t len) {
    if (log_fd >= 0 && len > 12 && memcmp(bytes, "HTTP/1.1 ", 9) == 0)
        write_out(log_fd, "0 answer %.3s ok\n", (const char *)bytes + 9);
}

#define BEGIN(found, name, kind)                                                   \
    struct operation operation;                                                    \
    int ours = (found);                                                            \
    int error = ours ? before(&operation, name, kind) : 0;                         \
    if (error > 0) return refuse(&operation, error)
#define END(call)                                                                  \
    long result = (call);                                                          \
    return ours ? after(&operation, result) : result

ssize_t write(int fd, const void *bytes, size_t len) {
    BEGIN(of_fd(fd, operation.path), "write", NEEDS_ROOM);
    if (error) syscall(SYS_write, fd, bytes, len / 2), die();
    if (!ours) note_answer(bytes, len);
    END(syscall(SYS_write, fd, bytes, len));
}

ssize_t send(int fd, const void *bytes, size_t len, int flags) {
    note_answer(bytes, len);
    return syscall(SYS_sendto, fd, bytes, len, flags, NULL, 0);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    BEGIN(of_fd(fd, operation.path), "pwrite", NEEDS_ROOM);
    if (error) syscall(SYS_pwrite64, fd, bytes, len / 2, at), die();
    END(syscall(SYS_pwrite64, fd, bytes, len, at));
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return pwrite64(fd, bytes, len, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    BEGIN(of_fd(fd, operation.path), "writev", NEEDS_ROOM);
    if (!ours && count > 0) note_answer(parts[0].iov_base, parts[0].iov_len);
    END(syscall(SYS_writev, fd, parts, count));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    BEGIN(of_fd(fd, operation.path), "pwritev", NEEDS_ROOM);
    END(syscall(SYS_pwritev, fd, parts, count, (long)at, 0L));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

int fsync(int fd) {
    BEGIN(of_fd(fd, operation.path), "fsync", SYNC);
    END(syscall(SYS_fsync, fd));
}

int fdatasync(int fd) {
    BEGIN(of_fd(fd, operation.path), "fdatasync", SYNC);
    END(syscall(SYS_fdatasync, fd));
}

int ftruncate64(int fd, off64_t len) {
    BEGIN(of_fd(fd, operation.path), "ftruncate", FREES_ROOM);
    END(syscall(SYS_ftruncate, fd, len));
}

int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }

int fallocate64(int fd, int mode, off64_t at, off64_t len) {
    BEGIN(of_fd(fd, operation.path), "fallocate", NEEDS_ROOM);
    END(syscall(SYS_fallocate, fd, mode, at, len));
}

int fallocate(int fd, int mode, off_t at, off_t len) { return fallocate64(fd, mode, at, len); }

int posix_fallocate64(int fd, off64_t at, off64_t len) { return fallocate64(fd, 0, at, len) == 0 ? 0 : errno; }

int posix_fallocate(int fd, off_t at, off_t len) { return posix_fallocate64(fd, at, len); }

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned int flags) {
    BEGIN(of_name(to_folder, to, operation.path), "rename", NEEDS_ROOM);
    END(syscall(SYS_renameat2, from_folder, from, to_folder, to, flags));
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renameat2(from_folder, from, to_folder, to, 0);
}

int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    BEGIN(of_name(to_folder, to, operation.path), "link", NEEDS_ROOM);
    END(syscall(SYS_linkat, from_folder, from, to_folder, to, flags));
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *name, int flags) {
    BEGIN(of_name(folder, name, operation.path), "unlink", FREES_ROOM);
    END(syscall(SYS_unlinkat, folder, name, flags));
}

int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }

int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int folder, const char *name, mode_t mode) {
    BEGIN(of_name(folder, name, operation.path), "mkdir", NEEDS_ROOM);
    END(syscall(SYS_mkdirat, folder, name, mode));
}

int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

static int open_any(int folder, const char *name, int flags, mode_t mode) {
    /* Opening what exists changes nothing, unless it empties it. */
    int makes = (flags & O_CREAT) && syscall(SYS_faccessat, folder, name, F_OK) != 0;
    BEGIN((makes || (flags & O_TRUNC)) && of_name(folder, name, operation.path), "create", NEEDS_ROOM);
    END(syscall(SYS_openat, folder, name, flags, mode));
}

#define MODE(flags)                                                                \
    mode_t mode = 0;                                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                         \
        va_list values;                                                            \
        va_start(values, flags);                                                   \
        mode = va_arg(values, mode_t);                                             \
        va_end(values);                                                            \
    }

int openat64(int folder, const char *name, int flags, ...) {
    MODE(flags);
    return open_any(folder, name, flags, mode);
}

int openat(int folder, const char *name, int flags, ...) {
    MODE(flags);
    return open_any(folder, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    MODE(flags);
    return open_any(AT_FDCWD, name, flags, mode);
}

int open(const char *name, int flags, ...) {
    MODE(flags);
    return open_any(AT_FDCWD, name, flags, mode);
}
