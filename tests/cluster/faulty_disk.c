// ferryd on a disk that stalls or fails when a test says so: by what the file named in
// FERRY_TEST_DISK contains ("stall", "fail"; nothing or no file: all is well). With
// FERRY_TEST_COMMANDS=N it is a version that understands the commands up to N. Only tests build it.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/member/ferryd.h"

static struct files real;

// Waits while stalled; an error if the disk is to fail.
static int disk_state(void)
{
    const char *path = getenv("FERRY_TEST_DISK");
    for (;;) {
        char text[16] = "";
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            if (read(fd, text, sizeof(text) - 1) < 0)
                text[0] = 0;
            close(fd);
        }
        if (strncmp(text, "fail", 4) == 0)
            return -EIO;
        if (strncmp(text, "stall", 5) != 0)
            return 0;
        usleep(20000);
    }
}

static int faulty_write(void *context, int file, uint64_t offset, const void *bytes, size_t length)
{
    int error = disk_state();
    return error ? error : real.write(context, file, offset, bytes, length);
}

static int faulty_sync(void *context, int file)
{
    int error = disk_state();
    return error ? error : real.sync(context, file);
}

static void make_faulty(struct files *files)
{
    real = *files;
    files->write = faulty_write;
    files->write_begin = NULL;
    files->sync = faulty_sync;
}

int main(int argc, char **argv)
{
    const char *commands = getenv("FERRY_TEST_COMMANDS");
    struct ferryd_test test = {
        .wrap = make_faulty,
        .newest_command = commands ? (uint32_t)strtoul(commands, NULL, 10) : 0,
    };
    return ferryd_run(argc, argv, &test);
}
