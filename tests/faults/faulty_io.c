/* Storage that fails: preloaded into a process (LD_PRELOAD), it counts the operations that change
 * files below a folder and lets some of them fail, or kills the process before one.
 *
 *   FAULTY_FOLDER   the folder, an absolute path
 *   FAULTY_AT       the first operation that fails, counted from 1; 0: none
 *   FAULTY_FOR      how many fail from there on (default 1; 0: all that follow)
 *   FAULTY_ERRNO    the error, a number (28 ENOSPC, 5 EIO); KILL: SIGKILL before the operation;
 *                   TERM: SIGTERM to the process, and the operation goes on; CLOCK: the wall clock
 *                   jumps by FAULTY_SECONDS, and the operation goes on
 *   FAULTY_COUNT    a file that gets the number of operations when the process exits
 *
 * Operations: open for writing, mkdir, write and its kin, fsync, rename, unlink, rmdir, truncate.
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
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_FDS 65536

static char *folder, *count_file, *kind;
static long first, number;
static long long jump;
static atomic_long operations;
static atomic_int jumped;
static atomic_char watched[MAX_FDS];

/* Reads the environment: when the process starts, and when a forked one asks for it. */
__attribute__((constructor)) void faulty_begin(void) {
  operations = 0;
  /* Copies: the process may change its environment. */
  folder = getenv("FAULTY_FOLDER") ? strdup(getenv("FAULTY_FOLDER")) : NULL;
  count_file = getenv("FAULTY_COUNT") ? strdup(getenv("FAULTY_COUNT")) : NULL;
  kind = getenv("FAULTY_ERRNO") ? strdup(getenv("FAULTY_ERRNO")) : NULL;
  first = getenv("FAULTY_AT") ? atol(getenv("FAULTY_AT")) : 0;
  number = getenv("FAULTY_FOR") ? atol(getenv("FAULTY_FOR")) : 1;
  jump = getenv("FAULTY_SECONDS") ? atoll(getenv("FAULTY_SECONDS")) : 0;
}

__attribute__((destructor)) void faulty_end(void) {
  if (!folder || !count_file || !operations) return;  /* a child that wrote nothing */
  FILE *file = fopen(count_file, "w");
  if (file) {
    fprintf(file, "%ld\n", (long)operations);
    fclose(file);
  }
}

static int is_inside(const char *path) {
  return folder && path && !strncmp(path, folder, strlen(folder));
}

/* Whether a path, relative to a directory, is inside. */
static int is_inside_at(int directory, const char *path) {
  char link[64], base[PATH_MAX];
  if (!folder || !path) return 0;
  if (path[0] == '/') return is_inside(path);
  if (directory == AT_FDCWD) return getcwd(base, sizeof base) && is_inside(base);
  snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
  ssize_t length = readlink(link, base, sizeof base - 1);
  if (length < 0) return 0;
  base[length] = 0;
  return is_inside(base);
}

static int is_watched(int fd) { return fd >= 0 && fd < MAX_FDS && watched[fd]; }

/* Counts an operation; whether it fails, with errno set. */
static int fails(void) {
  long now = ++operations;
  if (!first || now < first || (number && now >= first + number)) return 0;
  if (!strcmp(kind, "KILL")) kill(getpid(), SIGKILL);
  if (!strcmp(kind, "TERM")) kill(getpid(), SIGTERM);
  if (!strcmp(kind, "CLOCK")) jumped = 1;
  errno = atoi(kind);  /* 0 for words */
  return errno != 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int opened(int fd) {
  if (fd >= 0 && fd < MAX_FDS) watched[fd] = 1;
  return fd;
}

#define MODE(flags)                                    \
  mode_t mode = 0;                                     \
  if ((flags) & (O_CREAT | O_TMPFILE)) {               \
    va_list rest;                                      \
    va_start(rest, flags);                             \
    mode = va_arg(rest, mode_t);                       \
    va_end(rest);                                      \
  }

#define OPEN(name)                                                         \
  int name(const char *path, int flags, ...) {                             \
    MODE(flags)                                                            \
    if (!(flags & (O_WRONLY | O_RDWR)) || !is_inside_at(AT_FDCWD, path))   \
      return REAL(name)(path, flags, mode);                                \
    return fails() ? -1 : opened(REAL(name)(path, flags, mode));           \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                       \
  int name(int directory, const char *path, int flags, ...) {              \
    MODE(flags)                                                            \
    if (!(flags & (O_WRONLY | O_RDWR)) || !is_inside_at(directory, path))  \
      return REAL(name)(directory, path, flags, mode);                     \
    return fails() ? -1 : opened(REAL(name)(directory, path, flags, mode));\
  }
OPENAT(openat)
OPENAT(openat64)

int close(int fd) {
  if (fd >= 0 && fd < MAX_FDS) watched[fd] = 0;
  return REAL(close)(fd);
}

#define ON_FD(type, name, parameters, arguments)  \
  type name parameters {                          \
    if (is_watched(fd) && fails()) return -1;     \
    return REAL(name) arguments;                  \
  }
ON_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
ON_FD(ssize_t, writev, (int fd, const struct iovec *parts, int n), (fd, parts, n))
ON_FD(ssize_t, pwrite, (int fd, const void *d, size_t s, off_t at), (fd, d, s, at))
ON_FD(ssize_t, pwrite64, (int fd, const void *d, size_t s, off64_t at), (fd, d, s, at))
ON_FD(int, fsync, (int fd), (fd))
ON_FD(int, fdatasync, (int fd), (fd))
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size))
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size))

#define ON_PATH(name, parameters, directory, path, arguments)   \
  int name parameters {                                         \
    if (is_inside_at(directory, path) && fails()) return -1;    \
    return REAL(name) arguments;                                \
  }
ON_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, (path, mode))
ON_PATH(mkdirat, (int at, const char *path, mode_t mode), at, path, (at, path, mode))
ON_PATH(rename, (const char *from, const char *to), AT_FDCWD, to, (from, to))
ON_PATH(renameat, (int a, const char *from, int b, const char *to), b, to, (a, from, b, to))
ON_PATH(renameat2, (int a, const char *from, int b, const char *to, unsigned f), b, to,
        (a, from, b, to, f))
ON_PATH(link, (const char *from, const char *to), AT_FDCWD, to, (from, to))
ON_PATH(unlink, (const char *path), AT_FDCWD, path, (path))
ON_PATH(unlinkat, (int at, const char *path, int flags), at, path, (at, path, flags))
ON_PATH(rmdir, (const char *path), AT_FDCWD, path, (path))

int clock_gettime(clockid_t id, struct timespec *now) {
  int result = REAL(clock_gettime)(id, now);
  if (jumped && !result && id == CLOCK_REALTIME) now->tv_sec += jump;
  return result;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int result = REAL(gettimeofday)(now, zone);
  if (jumped && !result) now->tv_sec += jump;
  return result;
}
time_t time(time_t *into) {
  time_t now = REAL(time)(NULL) + (jumped ? jump : 0);
  if (into) *into = now;
  return now;
}
