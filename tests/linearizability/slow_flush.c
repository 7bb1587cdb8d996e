/* Loaded before the C library (LD_PRELOAD), it holds up every fsync and fdatasync of a process for as many
   milliseconds as the file named by SLOW_FLUSH says, while there is such a file. A byte is added to the file
   named by SLOW_FLUSH_COUNT for each that was held up. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long wanted_ms(void)
{
    const char *path = getenv("SLOW_FLUSH");
    char text[16] = {0};
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    return length > 0 ? strtol(text, NULL, 10) : 0;
}

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void hold_up(void)
{
    const struct timespec glance = {0, 2000000};
    long ms = wanted_ms(), begun = now_ms();
    if (ms <= 0)
        return;
    /* One millisecond more: the clock's milliseconds are rounded down. */
    while (now_ms() - begun <= ms && wanted_ms() > 0)
        nanosleep(&glance, NULL);
    const char *path = getenv("SLOW_FLUSH_COUNT");
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file >= 0) {
        if (write(file, ".", 1) < 0)
            abort();
        close(file);
    }
}

int fsync(int file)
{
    hold_up();
    return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    hold_up();
    return (int)syscall(SYS_fdatasync, file);
}
