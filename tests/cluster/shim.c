/*
 * Faults of the disk and of the clock for one program, by LD_PRELOAD.
 *
 * Files in the folder $FAULTS switch them, while the program runs:
 *
 *     write   write, writev and pwrite fail with the error number that is in the file
 *     short   the next writev writes half of what it should; the file is removed
 *     sync    fsync and fdatasync fail with the error number that is in the file
 *     clock   so many seconds are added to the time of day
 *
 * The first three concern files below the folder $FAULTY_STORAGE alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CLOCK_READ_NS 5000000

static const char *faults, *storage;
static __typeof__(&clock_gettime) real_clock_gettime;

__attribute__((constructor)) static void begin(void)
{
    faults = getenv("FAULTS");
    storage = getenv("FAULTY_STORAGE");
    real_clock_gettime = REAL(clock_gettime);
}

/* Reads the number in a file of the folder; returns whether the file is there. */
static int number_in(const char *name, long *number)
{
    char path[PATH_MAX], text[32] = "";
    int handle;
    ssize_t got;

    if (!faults)
        return 0;
    snprintf(path, sizeof path, "%s/%s", faults, name);
    handle = open(path, O_RDONLY | O_CLOEXEC);
    if (handle < 0)
        return 0;
    got = read(handle, text, sizeof text - 1);
    close(handle);
    *number = got > 0 ? atol(text) : 0;
    return 1;
}

static int is_stored(int handle)
{
    char link[64], path[PATH_MAX];
    ssize_t length;

    if (!storage)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    length = readlink(link, path, sizeof path - 1);
    return length > 0 && !strncmp(path, storage, strlen(storage));
}

/* Whether a call on this file fails; sets errno then. */
static int fails(const char *fault, int handle)
{
    int before = errno;
    long number;

    if (number_in(fault, &number) && is_stored(handle)) {
        errno = (int)number;
        return 1;
    }
    errno = before;
    return 0;
}

ssize_t write(int handle, const void *data, size_t size)
{
    return fails("write", handle) ? -1 : REAL(write)(handle, data, size);
}

ssize_t pwrite(int handle, const void *data, size_t size, off_t offset)
{
    return fails("write", handle) ? -1 : REAL(pwrite)(handle, data, size, offset);
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t offset)
{
    return fails("write", handle) ? -1 : REAL(pwrite64)(handle, data, size, offset);
}

static int takes_half(int handle)
{
    char path[PATH_MAX];
    long number;

    if (!number_in("short", &number) || !is_stored(handle))
        return 0;
    snprintf(path, sizeof path, "%s/short", faults);
    return unlink(path) == 0;
}

ssize_t writev(int handle, const struct iovec *parts, int count)
{
    if (fails("write", handle))
        return -1;
    if (takes_half(handle))
        return count > 1 ? REAL(writev)(handle, parts, count / 2)
                         : REAL(write)(handle, parts->iov_base, parts->iov_len / 2);
    return REAL(writev)(handle, parts, count);
}

int fsync(int handle)
{
    return fails("sync", handle) ? -1 : REAL(fsync)(handle);
}

int fdatasync(int handle)
{
    return fails("sync", handle) ? -1 : REAL(fdatasync)(handle);
}

static long seconds_ahead(void)
{
    static long ahead, read_at;
    int before = errno;
    struct timespec now;
    long now_ns;

    real_clock_gettime(CLOCK_MONOTONIC, &now);
    now_ns = now.tv_sec * 1000000000L + now.tv_nsec;
    if (now_ns - read_at > CLOCK_READ_NS) {
        read_at = now_ns;
        if (!number_in("clock", &ahead))
            ahead = 0;
    }
    errno = before;
    return ahead;
}

int clock_gettime(clockid_t which, struct timespec *at)
{
    int result;

    if (!real_clock_gettime)
        begin();
    result = real_clock_gettime(which, at);
    if (!result && which == CLOCK_REALTIME)
        at->tv_sec += seconds_ahead();
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    struct timespec now;

    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now))
        return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
