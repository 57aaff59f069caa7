/* A file system made slow on purpose: every open, stat and listing of a path that contains SLOW_FILES takes
 * SLOW_MICROSECONDS longer, in all programs that are started with LD_PRELOAD=build/slow_files.so. As on a shared file
 * system whose metadata server is busy, the wait costs no CPU time. What the dynamic linker opens itself is as quick as
 * ever.
 *
 *     cc -shared -fPIC -O2 -o build/slow_files.so benchmarks/slow_files.c -ldl
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void linger(const char *path)
{
    const char *part = getenv("SLOW_FILES"), *micros = getenv("SLOW_MICROSECONDS");
    if (part == NULL || micros == NULL || path == NULL || strstr(path, part) == NULL)
        return;
    long wait = atol(micros);
    struct timespec pause = {wait / 1000000, wait % 1000000 * 1000};
    nanosleep(&pause, NULL);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int stat64(const char *path, struct stat64 *status)
{
    linger(path);
    return NEXT(stat64)(path, status);
}

int lstat64(const char *path, struct stat64 *status)
{
    linger(path);
    return NEXT(lstat64)(path, status);
}

int fstatat64(int directory, const char *path, struct stat64 *status, int flags)
{
    linger(path);
    return NEXT(fstatat64)(directory, path, status, flags);
}

DIR *opendir(const char *path)
{
    linger(path);
    return NEXT(opendir)(path);
}

static mode_t mode_of(int flags, va_list rest)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    linger(path);
    return NEXT(open64)(path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = mode_of(flags, rest);
    va_end(rest);
    linger(path);
    return NEXT(openat64)(directory, path, flags, mode);
}
