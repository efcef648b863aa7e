/* A disk that takes what is written and cannot bring it to its platters: loaded before the C library, it fails to sync anything while the file that
   E3_SYNC_FAILS names is there. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int synced(long call, int fd) {
    const char *mark = getenv("E3_SYNC_FAILS");
    if (mark != NULL && access(mark, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(call, fd);
}

int fsync(int fd) { return synced(SYS_fsync, fd); }

int fdatasync(int fd) { return synced(SYS_fdatasync, fd); }
