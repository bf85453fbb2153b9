// A disk whose machine loses its lease: what the host hasn't been asked for is held, and carried
// out when the lease is back; nothing reaches the file in between.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/block/block_backend.h"
#include "tests/unit/run_suite.h"

enum { SIZE = 1 << 20, BLOCK = 4096, REQUESTS = 256 };

static struct block_backend *backend;
static struct io_thread *thread;
static struct lease lease;
static int fd;
static char path[] = "/tmp/ferry-lease-XXXXXX";
static uint8_t buffers[REQUESTS][BLOCK] __attribute__((aligned(4096)));
static struct iovec iov[REQUESTS];
static struct block_request requests[REQUESTS];
static unsigned completed_count;

static void on_completed(void *opaque, struct block_request *request)
{
    ck_assert_int_eq(request->result, 0);
    completed_count++;
}
static void on_settled(void *opaque)
{
}

static void attach(void *opaque)
{
    ck_assert_int_eq(backend->ops->attach(backend, thread), 0);
}
static void detach(void *opaque)
{
    backend->ops->detach(backend);
}
static void submit(void *opaque)
{
    for (unsigned *i = opaque; i[0] < i[1]; i[0]++)
        backend->ops->submit(backend, &requests[i[0]]);
    backend->ops->kick(backend);
}
static void drain(void *opaque)
{
    backend->ops->drain(backend);
}
static void kick(void *opaque)
{
    backend->ops->kick(backend);
}

static void open_backend(enum block_engine engine)
{
    struct error err = {0};
    const struct block_file_config config = {.engine = engine};
    strcpy(path + sizeof(path) - 7, "XXXXXX");
    fd = mkstemp(path);
    ck_assert_int_eq(ftruncate(fd, SIZE), 0);
    ck_assert_int_eq(block_file_create(&backend, dup(fd), "disk", &config, &err), 0);
    atomic_store(&lease.deadline_ns, UINT64_MAX - 1);
    backend->lease = &lease;
    backend->completed = on_completed;
    backend->settled = on_settled;
    ck_assert_int_eq(io_thread_start(&thread, "disk"), 0);
    io_thread_call(thread, attach, NULL);
    completed_count = 0;
}

static void close_backend(void)
{
    io_thread_call(thread, detach, NULL);
    io_thread_stop(thread);
    backend->ops->destroy(backend);
    close(fd);
    unlink(path);
}

// Request `i` writes its number, plus one, all over a block of its own (the numbers wrap).
static void make_write(unsigned i)
{
    memset(buffers[i], (uint8_t)(i + 1), BLOCK);
    iov[i] = (struct iovec){buffers[i], BLOCK};
    requests[i] = (struct block_request){.operation = BLOCK_WRITE,
                                         .offset = (uint64_t)(i % (SIZE / BLOCK)) * BLOCK,
                                         .length = BLOCK,
                                         .iov = &iov[i],
                                         .iov_count = 1};
}

static uint8_t byte_at(uint64_t offset)
{
    uint8_t byte = 0;
    ck_assert_int_eq(pread(fd, &byte, 1, (off_t)offset), 1);
    return byte;
}

static const enum block_engine engines[] = {BLOCK_ENGINE_SYNC, BLOCK_ENGINE_AUTO};

START_TEST(test_held_until_it_is_back)
{
    open_backend(engines[_i]);
    unsigned some[2] = {0, 10};
    for (unsigned i = 0; i < REQUESTS; i++)
        make_write(i);
    io_thread_call(thread, submit, some);
    io_thread_call(thread, drain, NULL);
    ck_assert_uint_eq(completed_count, 10);
    ck_assert(!backend->holding);

    // More than the ring has room for, so some wait before it.
    atomic_store(&lease.deadline_ns, 1);
    unsigned rest[2] = {10, SIZE / BLOCK};
    io_thread_call(thread, submit, rest);
    io_thread_call(thread, drain, NULL);
    ck_assert_uint_eq(completed_count, 10);
    ck_assert(backend->holding);
    ck_assert_uint_eq(byte_at(9 * BLOCK), 10);
    for (unsigned i = 10; i < SIZE / BLOCK; i++)
        ck_assert_uint_eq(byte_at((uint64_t)i * BLOCK), 0);

    ck_assert_int_eq(lease_reinstate(&lease, UINT64_MAX - 1, 2), 0);
    io_thread_call(thread, kick, NULL);
    io_thread_call(thread, drain, NULL);
    ck_assert_uint_eq(completed_count, SIZE / BLOCK);
    ck_assert(!backend->holding);
    for (unsigned i = 0; i < SIZE / BLOCK; i++)
        ck_assert_uint_eq(byte_at((uint64_t)i * BLOCK), (uint8_t)(i + 1));
    close_backend();
}
END_TEST

START_TEST(test_every_operation)
{
    static const enum block_operation operations[] = {BLOCK_READ, BLOCK_FLUSH, BLOCK_DISCARD,
                                                      BLOCK_WRITE_ZEROES};
    open_backend(engines[_i]);
    unsigned first[2] = {0, 4}, again[2] = {0, 4};
    for (unsigned i = 0; i < 4; i++)
        make_write(i);
    io_thread_call(thread, submit, first);
    io_thread_call(thread, drain, NULL);
    for (unsigned i = 0; i < 4; i++) {
        make_write(i);
        memset(buffers[i], 0xee, BLOCK);
        requests[i].operation = operations[i];
        if (operations[i] == BLOCK_FLUSH)
            requests[i].length = 0;
    }
    atomic_store(&lease.deadline_ns, 1);
    io_thread_call(thread, submit, again);
    io_thread_call(thread, drain, NULL);
    ck_assert_uint_eq(completed_count, 4);
    ck_assert_uint_eq(buffers[0][0], 0xee);
    ck_assert_uint_eq(byte_at(2 * BLOCK), 3);
    ck_assert_uint_eq(byte_at(3 * BLOCK), 4);
    ck_assert_int_eq(lease_reinstate(&lease, UINT64_MAX - 1, 2), 0);
    io_thread_call(thread, kick, NULL);
    io_thread_call(thread, drain, NULL);
    ck_assert_uint_eq(completed_count, 8);
    ck_assert_uint_eq(buffers[0][0], 1);
    ck_assert_uint_eq(byte_at(3 * BLOCK), 0);
    close_backend();
}
END_TEST

// It ends while something is held: that is forgotten, and never written.
START_TEST(test_the_end)
{
    open_backend(engines[_i]);
    unsigned some[2] = {0, 200};
    for (unsigned i = 0; i < 200; i++)
        make_write(i);
    atomic_store(&lease.deadline_ns, 1);
    io_thread_call(thread, submit, some);
    io_thread_call(thread, detach, NULL);
    ck_assert_uint_eq(completed_count, 0);
    for (unsigned i = 0; i < 200; i++)
        ck_assert_uint_eq(byte_at((uint64_t)i * BLOCK), 0);
    io_thread_stop(thread);
    backend->ops->destroy(backend);
    close(fd);
    unlink(path);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("block lease");
    TCase *tc = tcase_create("block lease");
    tcase_add_loop_test(tc, test_held_until_it_is_back, 0, 2);
    tcase_add_loop_test(tc, test_every_operation, 0, 2);
    tcase_add_loop_test(tc, test_the_end, 0, 2);
    tcase_set_timeout(tc, 60);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
