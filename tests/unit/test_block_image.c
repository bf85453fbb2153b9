// Opening and locking of disk images.
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "devices/block/block_image.h"
#include "tests/unit/run_suite.h"

static char path[] = "/tmp/ferry-test-image-XXXXXX";
static struct error err;

static void set_up(void)
{
    strcpy(path + sizeof(path) - 7, "XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, 1 << 20), 0);
    close(fd);
    memset(&err, 0, sizeof(err));
}

static void tear_down(void)
{
    unlink(path);
}

static int open_image(bool read_only)
{
    const struct block_file_config config = {.read_only = read_only};
    int fd = block_image_open(path, &config, &err);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    return fd;
}

START_TEST(one_writer_or_many_readers)
{
    int writer = open_image(false), other = open_image(false);
    int reader = open_image(true), second = open_image(true);
    ck_assert_int_eq(block_image_lock(writer, path, false, &err), 0);
    ck_assert_int_eq(block_image_lock(writer, path, false, &err), 0); // its own
    ck_assert_int_eq(block_image_lock(other, path, false, &err), -EAGAIN);
    ck_assert_int_eq(block_image_lock(reader, path, true, &err), -EAGAIN);
    ck_assert_int_eq(block_image_unlock(writer), 0);
    ck_assert_int_eq(block_image_lock(reader, path, true, &err), 0);
    ck_assert_int_eq(block_image_lock(second, path, true, &err), 0);
    ck_assert_int_eq(block_image_lock(other, path, false, &err), -EAGAIN);
    close(reader);
    ck_assert_int_eq(block_image_lock(other, path, false, &err), -EAGAIN);
    close(second);
    ck_assert_int_eq(block_image_lock(other, path, false, &err), 0);
    close(writer);
    close(other);
}
END_TEST

// Another process holds the lock, then dies without a word.
START_TEST(holder_is_named_and_its_death_unlocks)
{
    int ready[2], stay[2];
    char byte, wanted[64];
    ck_assert_int_eq(pipe(ready), 0);
    ck_assert_int_eq(pipe(stay), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(stay[1]);
        if (block_image_lock(open_image(false), path, false, &err) < 0)
            _exit(1);
        if (write(ready[1], "x", 1) != 1 || read(stay[0], &byte, 1) != 0)
            _exit(1);
        _exit(0);
    }
    ck_assert_int_eq(read(ready[0], &byte, 1), 1);
    int fd = open_image(false);
    ck_assert_int_eq(block_image_lock(fd, path, false, &err), -EAGAIN);
    snprintf(wanted, sizeof(wanted), "process %d ", pid);
    ck_assert_msg(strstr(err.message, wanted) != NULL, "%s", err.message);
    ck_assert_ptr_nonnull(strstr(err.message, path));
    int reader = open_image(true);
    ck_assert_int_eq(block_image_lock(reader, path, true, &err), -EAGAIN);
    ck_assert_msg(strstr(err.message, wanted) != NULL, "%s", err.message);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    ck_assert_int_eq(block_image_lock(fd, path, false, &err), 0);
    close(fd);
    close(reader);
}
END_TEST

// The lock belongs to the open file, so it stays when only one of two descriptors goes, as when it
// is passed to the machine's process.
START_TEST(lock_passes_with_the_descriptor)
{
    int fd = open_image(false), copy = dup(fd), other = open_image(false);
    ck_assert_int_eq(block_image_lock(fd, path, false, &err), 0);
    close(fd);
    ck_assert_int_eq(block_image_lock(other, path, false, &err), -EAGAIN);
    close(copy);
    ck_assert_int_eq(block_image_lock(other, path, false, &err), 0);
    close(other);
}
END_TEST

START_TEST(errors_name_the_file)
{
    const struct block_file_config config = {0};
    struct block_backend *backend;
    ck_assert_int_eq(block_image_open("/nowhere/at-all", &config, &err), -ENOENT);
    ck_assert_ptr_nonnull(strstr(err.message, "/nowhere/at-all"));
    ck_assert_int_eq(truncate(path, 0), 0);
    int fd = open_image(false);
    ck_assert_int_eq(block_file_create(&backend, fd, path, &config, &err), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "is empty"));
    close(fd);
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(block_file_create(&backend, fd, "/dev/null", &config, &err), -ENOTBLK);
    ck_assert_ptr_nonnull(strstr(err.message, "/dev/null"));
    close(fd);
}
END_TEST

START_TEST(odd_sizes_are_rounded_down)
{
    struct block_backend *backend;
    const struct block_file_config config = {.engine = BLOCK_ENGINE_SYNC};
    ck_assert_int_eq(truncate(path, 5 * 512 + 17), 0);
    int fd = open_image(false);
    ck_assert_int_eq(block_file_create(&backend, fd, path, &config, &err), 0);
    ck_assert_uint_eq(backend->size, 5 * 512);
    backend->ops->destroy(backend);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("block images");
    TCase *t = tcase_create("images");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, one_writer_or_many_readers);
    tcase_add_test(t, holder_is_named_and_its_death_unlocks);
    tcase_add_test(t, lock_passes_with_the_descriptor);
    tcase_add_test(t, errors_name_the_file);
    tcase_add_test(t, odd_sizes_are_rounded_down);
    suite_add_tcase(s, t);
    return run_suite(s);
}
