/* Preloaded into a server: system calls that change files below one directory fail, as those of a kernel fail when it makes
 * a file system read-only because of an error. Open files are affected, too, which no mount option achieves.
 *
 * TERRACE_TEST_FAULT_DIR is the directory. TERRACE_TEST_FAULT_FILE is a file with an int: the error number, or 0. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *directory;
static volatile int *fault;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("TERRACE_TEST_FAULT_FILE");
    directory = getenv("TERRACE_TEST_FAULT_DIR");
    if (!path || !directory)
        return;
    int file = open(path, O_RDONLY);
    void *map = mmap(NULL, sizeof(int), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED)
        fault = map;
}

static int fails_at(const char *path) {
    int error = fault ? *fault : 0;
    if (!error || strncmp(path, directory, strlen(directory)))
        return 0;
    errno = error;
    return 1;
}

static int fails_on(int file) {
    char link[64], path[PATH_MAX];
    if (!fault || !*fault)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails_at(path);
}

static int fails_below(int folder, const char *path) {
    return *path == '/' || folder == AT_FDCWD ? fails_at(path) : fails_on(folder);
}

static int changes(int flags) {
    return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                                        \
    int name(const char *path, int flags, ...) {                                                                          \
        va_list rest;                                                                                                     \
        va_start(rest, flags);                                                                                            \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                                         \
        va_end(rest);                                                                                                     \
        return changes(flags) && fails_at(path) ? -1 : REAL(name)(path, flags, mode);                                     \
    }
OPEN(open)
OPEN(open64)

#define OPEN_AT(name)                                                                                                     \
    int name(int folder, const char *path, int flags, ...) {                                                              \
        va_list rest;                                                                                                     \
        va_start(rest, flags);                                                                                            \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                                         \
        va_end(rest);                                                                                                     \
        return changes(flags) && fails_below(folder, path) ? -1 : REAL(name)(folder, path, flags, mode);                  \
    }
OPEN_AT(openat)
OPEN_AT(openat64)

#define WRAP(type, name, parameters, arguments, condition)                                                                \
    type name parameters {                                                                                                \
        return condition ? -1 : REAL(name) arguments;                                                                     \
    }
WRAP(ssize_t, write, (int file, const void *bytes, size_t length), (file, bytes, length), fails_on(file))
WRAP(ssize_t, writev, (int file, const struct iovec *parts, int count), (file, parts, count), fails_on(file))
WRAP(ssize_t, pwrite, (int file, const void *bytes, size_t length, off_t at), (file, bytes, length, at), fails_on(file))
WRAP(ssize_t, pwrite64, (int file, const void *bytes, size_t length, off64_t at), (file, bytes, length, at), fails_on(file))
WRAP(int, fsync, (int file), (file), fails_on(file))
WRAP(int, fdatasync, (int file), (file), fails_on(file))
WRAP(int, ftruncate, (int file, off_t length), (file, length), fails_on(file))
WRAP(int, ftruncate64, (int file, off64_t length), (file, length), fails_on(file))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), fails_at(path))
WRAP(int, rmdir, (const char *path), (path), fails_at(path))
WRAP(int, unlink, (const char *path), (path), fails_at(path))
WRAP(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), fails_below(folder, path))
WRAP(int, rename, (const char *from, const char *to), (from, to), fails_at(to))
WRAP(int, link, (const char *from, const char *to), (from, to), fails_at(to))
WRAP(int, linkat, (int from, const char *path, int to, const char *name, int flags), (from, path, to, name, flags),
     fails_below(to, name))
