// The lease's word, and the epoch file beside a disk.
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/lease.h"
#include "tests/unit/run_suite.h"
#include "vmm/disk_epoch.h"

// ---- the lease ----

START_TEST(test_holds_until_its_deadline)
{
    struct lease lease = {1000};
    ck_assert(lease_holds_at(&lease, 0));
    ck_assert(lease_holds_at(&lease, 999));
    ck_assert(!lease_holds_at(&lease, 1000));
    // Latched: earlier times don't bring it back, nor does a renewal.
    ck_assert(!lease_holds_at(&lease, 1));
    ck_assert_int_eq(lease_renew(&lease, 5000, 1), -ETIMEDOUT);
    ck_assert(!lease_holds_at(&lease, 1));
    ck_assert_uint_eq(lease_deadline(&lease), LEASE_LOST);
}
END_TEST

START_TEST(test_deadlines_only_grow)
{
    struct lease lease = {1000};
    ck_assert_int_eq(lease_renew(&lease, 2000, 500), 0);
    ck_assert_int_eq(lease_renew(&lease, 1500, 500), 0); // overtaken by the one before
    ck_assert_uint_eq(lease_deadline(&lease), 2000);
    // A renewal that comes too late is none, however late its deadline.
    ck_assert_int_eq(lease_renew(&lease, 9000, 2000), -ETIMEDOUT);
    ck_assert_uint_eq(lease_deadline(&lease), LEASE_LOST);
}
END_TEST

START_TEST(test_reinstated)
{
    struct lease lease = {1000};
    ck_assert_int_eq(lease_reinstate(&lease, 5000, 10), -EALREADY);
    ck_assert(!lease_holds_at(&lease, 1000));
    ck_assert_int_eq(lease_reinstate(&lease, 1500, 1500), -ETIMEDOUT);
    ck_assert_int_eq(lease_reinstate(&lease, 5000, 1500), 0);
    ck_assert(lease_holds_at(&lease, 4999));
    ck_assert(!lease_holds_at(&lease, 5000));
}
END_TEST

START_TEST(test_unbounded)
{
    struct lease lease = {LEASE_UNBOUNDED};
    ck_assert(lease_holds(&lease));
    ck_assert_int_eq(lease_renew(&lease, 1000, 5), 0);
    ck_assert_uint_eq(lease_deadline(&lease), LEASE_UNBOUNDED);
}
END_TEST

// Threads compare while one renews, each renewal shortly before the end; at last it stops renewing.
// Nobody may find that it holds after somebody found it lost.
static struct lease shared;
static _Atomic uint64_t shared_now;
static atomic_bool seen_lost, held_after_loss, comparing;

static void *compare(void *opaque)
{
    (void)opaque;
    while (atomic_load(&comparing)) {
        bool lost_before = atomic_load(&seen_lost);
        if (!lease_holds_at(&shared, atomic_load(&shared_now)))
            atomic_store(&seen_lost, true);
        else if (lost_before)
            atomic_store(&held_after_loss, true);
    }
    return NULL;
}

START_TEST(test_lost_for_all_or_for_none)
{
    for (int round = 0; round < 50; round++) {
        pthread_t threads[3];
        atomic_store(&shared.deadline_ns, 100);
        atomic_store(&shared_now, 1);
        atomic_store(&seen_lost, false);
        atomic_store(&comparing, true);
        for (int i = 0; i < 3; i++)
            pthread_create(&threads[i], NULL, compare, NULL);
        for (uint64_t now = 1; now < 20000 && !atomic_load(&seen_lost); now++) {
            atomic_store(&shared_now, now);
            // Deadlines that are passed now and then.
            lease_renew(&shared, now + (now % 97 ? 100 : 0), now);
        }
        atomic_store(&shared_now, 1000000);
        while (!atomic_load(&seen_lost))
            continue;
        for (int i = 0; i < 100; i++)
            lease_renew(&shared, 2000000 + (uint64_t)i, 1000000);
        atomic_store(&comparing, false);
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        ck_assert(!atomic_load(&held_after_loss));
        ck_assert_uint_eq(lease_deadline(&shared), LEASE_LOST);
    }
}
END_TEST

// ---- the epoch file ----

static char directory[] = "/tmp/ferry-epoch-XXXXXX", image[64], file[80];
static int image_fd;
static struct error err;
static struct uuid mine, other;

static void set_up(void)
{
    strcpy(directory + sizeof(directory) - 7, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(image, sizeof(image), "%s/disk", directory);
    snprintf(file, sizeof(file), "%s.epoch", image);
    image_fd = open(image, O_RDWR | O_CREAT, 0600);
    ck_assert_int_ge(image_fd, 0);
    memset(mine.bytes, 1, sizeof(mine.bytes));
    memset(other.bytes, 2, sizeof(other.bytes));
    err = (struct error){0};
}

static void tear_down(void)
{
    close(image_fd);
    unlink(file);
    unlink(image);
    rmdir(directory);
}

static int claim(const struct uuid *uuid, uint64_t epoch, uint64_t most, bool create)
{
    int fd = disk_epoch_open(image_fd, image, create, &err);
    if (fd < 0)
        return fd;
    int rc = disk_epoch_claim(fd, image, uuid, epoch, most, create, &err);
    close(fd);
    return rc;
}

START_TEST(test_epochs_only_grow)
{
    ck_assert_int_eq(claim(&mine, 5, 5, false), -ENOENT); // an image without the file is nobody's
    ck_assert(!disk_epoch_exists(image));
    ck_assert_int_eq(claim(&mine, 5, 5, true), 0);
    ck_assert(disk_epoch_exists(image));
    ck_assert_int_eq(claim(&mine, 5, 5, false), 0);
    ck_assert_int_eq(claim(&mine, 4, 4, true), -ESTALE);
    ck_assert_int_eq(claim(&mine, 9, 9, false), 0);
    ck_assert_int_eq(claim(&mine, 8, 8, false), -ESTALE);
    ck_assert_int_eq(claim(&mine, UINT64_C(1) << 33, UINT64_C(1) << 33, false), 0);
    ck_assert_int_eq(claim(&mine, 10, 10, false), -ESTALE);
}
END_TEST

START_TEST(test_another_machines_disk)
{
    ck_assert_int_eq(claim(&mine, 5, 5, true), 0);
    ck_assert_int_eq(claim(&other, 50, 50, true), -EPERM);
    ck_assert_ptr_nonnull(strstr(err.message, "01010101-0101"));
    ck_assert_int_eq(claim(&mine, 5, 5, false), 0);
}
END_TEST

// A machine that is given back its lease must not find that somebody used the disk in between.
START_TEST(test_nobody_in_between)
{
    ck_assert_int_eq(claim(&mine, 5, 5, true), 0);
    ck_assert_int_eq(claim(&mine, 6, 6, false), 0);
    ck_assert_int_eq(claim(&mine, 7, 5, false), -ESTALE);
    ck_assert_int_eq(claim(&mine, 7, 6, false), 0);
}
END_TEST

static void spoil(off_t at)
{
    int fd = open(file, O_RDWR);
    uint8_t byte;
    ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 0x40;
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

START_TEST(test_half_written)
{
    ck_assert_int_eq(claim(&mine, 5, 5, true), 0);  // slot 0
    ck_assert_int_eq(claim(&mine, 6, 6, false), 0); // slot 1
    spoil(4096 + 25);
    ck_assert_int_eq(claim(&mine, 5, 5, false), 0); // 6 was never stored in whole
    ck_assert_int_eq(claim(&mine, 7, 7, false), 0);
    ck_assert_int_eq(claim(&mine, 6, 6, false), -ESTALE);
    spoil(3);
    spoil(4096 + 3);
    ck_assert_int_eq(claim(&mine, 8, 8, true), -EPERM); // damaged: nobody's, not a new one's
}
END_TEST

START_TEST(test_an_empty_file)
{
    close(open(file, O_RDWR | O_CREAT, 0600)); // power was lost after it was made
    ck_assert_int_eq(claim(&mine, 5, 5, false), -EPERM);
    ck_assert_int_eq(claim(&mine, 5, 5, true), 0);
}
END_TEST

START_TEST(test_no_file_no_epoch)
{
    int fd = open("/dev/null", O_RDWR);
    ck_assert_int_eq(disk_epoch_open(fd, "/dev/null", true, &err), -ENOTSUP);
    close(fd);
    // Nor one somewhere else.
    ck_assert_int_eq(symlink("/tmp/elsewhere", file), 0);
    ck_assert_int_lt(claim(&mine, 5, 5, true), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lease");
    TCase *lease = tcase_create("lease");
    tcase_add_test(lease, test_holds_until_its_deadline);
    tcase_add_test(lease, test_deadlines_only_grow);
    tcase_add_test(lease, test_reinstated);
    tcase_add_test(lease, test_unbounded);
    tcase_add_test(lease, test_lost_for_all_or_for_none);
    tcase_set_timeout(lease, 60);
    suite_add_tcase(suite, lease);
    TCase *epoch = tcase_create("epoch file");
    tcase_add_checked_fixture(epoch, set_up, tear_down);
    tcase_add_test(epoch, test_epochs_only_grow);
    tcase_add_test(epoch, test_another_machines_disk);
    tcase_add_test(epoch, test_nobody_in_between);
    tcase_add_test(epoch, test_half_written);
    tcase_add_test(epoch, test_an_empty_file);
    tcase_add_test(epoch, test_no_file_no_epoch);
    suite_add_tcase(suite, epoch);
    return run_suite(suite);
}
