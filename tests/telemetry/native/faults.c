/* Loaded before libc: reads of chosen files fail as a kernel's do, or hang.
 *
 * The file FAULTS has lines "end-of-path errno"; it is looked at whenever a file is opened, so that a test can change
 * it. Errno 13 (EACCES) already fails the open; errno -1 hangs the read until the line is gone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HANG = -1, FILES = 4096, LONGEST = 512 };
static char faulty[FILES][LONGEST];

static int fault_of(const char *path) {
    const char *spec = getenv("FAULTS");
    char text[8192];
    if (spec == NULL || path[0] == '\0') return 0;
    int file = (int)syscall(SYS_openat, AT_FDCWD, spec, O_RDONLY, 0);
    if (file < 0) return 0;
    long size = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    text[size < 0 ? 0 : size] = '\0';
    size_t length = strlen(path);
    for (char *rest, *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char *code = strrchr(line, ' ');
        if (code == NULL) continue;
        size_t end = (size_t)(code - line);
        if (end <= length && strncmp(path + length - end, line, end) == 0) return atoi(code + 1);
    }
    return 0;
}

static int opened(int directory, const char *path, int flags, int mode) {
    int fault = fault_of(path);
    if (fault == EACCES) {
        errno = EACCES;
        return -1;
    }
    int file = (int)syscall(SYS_openat, directory, path, flags, mode);
    if (file >= 0 && file < FILES) {
        faulty[file][0] = '\0';
        if (fault != 0) strncpy(faulty[file], path, LONGEST - 1);
    }
    return file;
}

static int failed(int file) {
    if (file < 0 || file >= FILES || faulty[file][0] == '\0') return 0;
    int fault = fault_of(faulty[file]);
    while (fault == HANG) {
        usleep(2000);
        fault = fault_of(faulty[file]);
    }
    errno = fault;
    return fault != 0;
}

#define MODE(flags, mode) \
    int mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, int); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags, mode) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags, mode) return opened(at, path, flags, mode); }

ssize_t read(int file, void *to, size_t size) {
    return failed(file) ? -1 : syscall(SYS_read, file, to, size);
}
ssize_t pread(int file, void *to, size_t size, off_t at) {
    return failed(file) ? -1 : syscall(SYS_pread64, file, to, size, at);
}
ssize_t pread64(int file, void *to, size_t size, off64_t at) {
    return failed(file) ? -1 : syscall(SYS_pread64, file, to, size, at);
}
