// The console hub with a guest, a foreground and clients made of this test.
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/local_socket.h"
#include "tests/unit/run_suite.h"
#include "vmm/console_hub.h"

static uv_loop_t loop;
static struct console_hub *hub;
static struct error err;
static char path[64];
static int log_fd;

// The guest: takes at most `guest_room` bytes of input.
static uint8_t guest_received[1 << 20];
static size_t guest_length, guest_room;
static unsigned output_ready_calls;

// The foreground: the same.
static uint8_t *foreground_received;
static size_t foreground_length, foreground_room;

static size_t guest_input(void *opaque, const uint8_t *bytes, size_t length)
{
    size_t taken = length < guest_room ? length : guest_room;
    memcpy(guest_received + guest_length, bytes, taken);
    guest_length += taken;
    guest_room -= taken;
    return taken;
}

static void guest_output_ready(void *opaque)
{
    output_ready_calls++;
}

static const struct console_guest guest = {guest_input, guest_output_ready};

static size_t foreground_output(void *opaque, const uint8_t *bytes, size_t length)
{
    size_t taken = length < foreground_room ? length : foreground_room;
    memcpy(foreground_received + foreground_length, bytes, taken);
    foreground_length += taken;
    foreground_room -= taken;
    return taken;
}

static void foreground_input_ready(void *opaque)
{
}

static const struct console_foreground foreground = {foreground_output, foreground_input_ready};

static void run_loop(void)
{
    for (int i = 0; i < 10; i++)
        uv_run(&loop, UV_RUN_NOWAIT);
}

// Until what was collected behind an earlier output is moved on as well.
static void settle(void)
{
    uint64_t until = uv_hrtime() + 20 * 1000000;
    while (uv_hrtime() < until)
        uv_run(&loop, UV_RUN_NOWAIT);
}

static void set_up(void)
{
    uv_loop_init(&loop);
    snprintf(path, sizeof(path), "/tmp/ferry-console-%d.sock", (int)getpid());
    log_fd = memfd_create("console.log", 0);
    int listen_fd = local_socket_listen(path, &err);
    ck_assert_int_ge(listen_fd, 0);
    ck_assert_int_eq(console_hub_create(&hub, &loop, dup(log_fd), listen_fd, &err), 0);
    console_hub_set_guest(hub, &guest, NULL);
    guest_room = sizeof(guest_received);
    foreground_received = malloc(64 << 20);
}

static void tear_down(void)
{
    console_hub_destroy(hub);
    run_loop();
    ck_assert_int_eq(uv_loop_close(&loop), 0); // nothing was left open
    free(foreground_received);
    close(log_fd);
    unlink(path);
}

static int join(void)
{
    int fd = local_socket_connect(path, &err);
    ck_assert_int_ge(fd, 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    run_loop();
    return fd;
}

static void say(const char *text)
{
    ck_assert_uint_eq(console_hub_write(hub, (const uint8_t *)text, strlen(text)), strlen(text));
    settle();
}

static void expect(int fd, const char *text)
{
    char got[4096];
    ssize_t n = recv(fd, got, sizeof(got) - 1, 0);
    got[n > 0 ? n : 0] = 0;
    ck_assert_str_eq(got, text);
}

START_TEST(output_reaches_everybody)
{
    char logged[16] = "";
    int a = join(), b = join();
    foreground_room = 1000;
    console_hub_set_foreground(hub, &foreground, NULL);
    say("hello");
    expect(a, "hello");
    expect(b, "hello");
    ck_assert_mem_eq(foreground_received, "hello", 5);
    ck_assert_int_eq(pread(log_fd, logged, sizeof(logged), 0), 5);
    ck_assert_str_eq(logged, "hello");
    close(a);
    run_loop();
    say("again");
    expect(b, "again");
    close(b);
}
END_TEST

START_TEST(input_comes_from_everybody)
{
    int a = join(), b = join();
    ck_assert_int_eq(write(a, "one", 3), 3);
    run_loop();
    ck_assert_int_eq(write(b, "two", 3), 3);
    run_loop();
    ck_assert_uint_eq(console_hub_foreground_input(hub, (const uint8_t *)"three", 5), 5);
    ck_assert_uint_eq(guest_length, 11);
    ck_assert_mem_eq(guest_received, "onetwothree", 11);
    close(a);
    close(b);
}
END_TEST

START_TEST(input_waits_for_the_guest)
{
    char sent[50000];
    for (size_t i = 0; i < sizeof(sent); i++)
        sent[i] = (char)(i * 7 + i / 256);
    int a = join();
    guest_room = 10;
    ck_assert_int_eq(write(a, sent, sizeof(sent)), sizeof(sent));
    close(a); // what it had sent is still for the guest
    run_loop();
    ck_assert_uint_eq(guest_length, 10);
    while (guest_length < sizeof(sent)) {
        size_t before = guest_length;
        guest_room = 777;
        console_hub_input_ready(hub);
        run_loop();
        ck_assert_uint_gt(guest_length, before);
    }
    ck_assert_uint_eq(guest_length, sizeof(sent));
    ck_assert_mem_eq(guest_received, sent, sizeof(sent));
}
END_TEST

START_TEST(foreground_holds_the_guest_back)
{
    static uint8_t block[CONSOLE_RING_SIZE + 1000];
    memset(block, 'x', sizeof(block));
    console_hub_set_foreground(hub, &foreground, NULL);
    run_loop();
    ck_assert_uint_eq(console_hub_write(hub, block, sizeof(block)), CONSOLE_RING_SIZE);
    run_loop();
    ck_assert_uint_eq(console_hub_write(hub, block, 10), 0);
    ck_assert_uint_eq(output_ready_calls, 0);
    foreground_room = 100;
    console_hub_foreground_ready(hub);
    ck_assert_uint_eq(foreground_length, 100);
    ck_assert_uint_eq(output_ready_calls, 1);
    ck_assert_uint_eq(console_hub_write(hub, block, 200), 100);
    foreground_room = SIZE_MAX;
    console_hub_foreground_ready(hub);
    run_loop();
    ck_assert_uint_eq(foreground_length, CONSOLE_RING_SIZE + 100);
    ck_assert_uint_eq(output_ready_calls, 2);
}
END_TEST

START_TEST(without_foreground_nobody_holds_it_back)
{
    static uint8_t block[CONSOLE_RING_SIZE];
    int slow = join();
    for (int i = 0; i < 100; i++) {
        ck_assert_uint_eq(console_hub_write(hub, block, sizeof(block)), sizeof(block));
        run_loop();
    }
    close(slow);
}
END_TEST

START_TEST(slow_client_is_told_what_it_missed)
{
    static char block[CONSOLE_RING_SIZE], got[8 << 20];
    const size_t total = 32 * sizeof(block);
    memset(block, 'x', sizeof(block));
    int slow = join();
    for (size_t sent = 0; sent < total; sent += sizeof(block)) {
        console_hub_write(hub, (uint8_t *)block, sizeof(block));
        run_loop();
    }
    size_t length = 0;
    for (ssize_t n; (n = recv(slow, got + length, sizeof(got) - length, 0)) > 0; run_loop())
        length += (size_t)n;
    got[length] = 0;
    size_t seen = strspn(got, "x");
    unsigned long long dropped;
    ck_assert_int_eq(sscanf(got + seen, "\r\n[ferry: %llu bytes were dropped here]", &dropped), 1);
    ck_assert_uint_eq(seen + dropped, total);
    say("after");
    expect(slow, "after");
    close(slow);
}
END_TEST

START_TEST(log_keeps_the_newest)
{
    static uint8_t line[1000];
    size_t total = 0;
    for (int i = 0; total < 3 * (size_t)CONSOLE_LOG_LIMIT + 12345; i++) {
        for (size_t k = 0; k < sizeof(line); k++)
            line[k] = (uint8_t)((total + k) % 251);
        total += console_hub_write(hub, line, sizeof(line));
        run_loop();
    }
    settle();
    struct stat st;
    fstat(log_fd, &st);
    ck_assert_int_le(st.st_size, CONSOLE_LOG_LIMIT);
    ck_assert_int_ge(st.st_size, CONSOLE_LOG_LIMIT / 2);
    uint8_t *kept = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, log_fd, 0);
    for (off_t k = 0; k < st.st_size; k++)
        ck_assert_uint_eq(kept[k], (total - (size_t)st.st_size + (size_t)k) % 251);
}
END_TEST

START_TEST(clients_are_bounded)
{
    int fds[CONSOLE_CLIENTS_LIMIT];
    for (int i = 0; i < CONSOLE_CLIENTS_LIMIT; i++)
        fds[i] = join();
    int extra = join();
    expect(extra, "[ferry: too many clients at this console]\r\n");
    ck_assert_int_eq(recv(extra, (char[1]){0}, 1, 0), 0);
    close(extra);
    // Clients that only listened and went away give their places free, with no output to notice by.
    for (int i = 0; i < CONSOLE_CLIENTS_LIMIT; i++) {
        shutdown(fds[i], SHUT_WR);
        run_loop();
        close(fds[i]);
    }
    run_loop();
    int again = join();
    say("hi");
    expect(again, "hi");
    close(again);
}
END_TEST

START_TEST(half_closed_client_still_listens)
{
    int a = join();
    ck_assert_int_eq(write(a, "x", 1), 1);
    shutdown(a, SHUT_WR);
    run_loop();
    ck_assert_uint_eq(guest_length, 1);
    say("answer");
    expect(a, "answer");
    close(a);
}
END_TEST

static void set_flag(void *opaque)
{
    *(bool *)opaque = true;
}

START_TEST(drain_waits_for_the_last_byte)
{
    bool done = false;
    console_hub_set_foreground(hub, &foreground, NULL);
    foreground_room = 0;
    console_hub_write(hub, (const uint8_t *)"last words", 10);
    console_hub_drain(hub, set_flag, &done);
    run_loop();
    ck_assert(!done);
    foreground_room = 4;
    console_hub_foreground_ready(hub);
    run_loop();
    ck_assert(!done);
    foreground_room = 100;
    console_hub_foreground_ready(hub);
    ck_assert(done);
    ck_assert_mem_eq(foreground_received, "last words", 10);
}
END_TEST

START_TEST(drain_gives_up_on_slow_clients)
{
    static uint8_t block[CONSOLE_RING_SIZE];
    bool done = false;
    int slow = join();
    for (int i = 0; i < 8; i++) {
        console_hub_write(hub, block, sizeof(block));
        run_loop();
    }
    console_hub_drain(hub, set_flag, &done);
    run_loop();
    ck_assert(!done);
    for (int i = 0; i < 2000 && !done; i++) // at most two turns of a second each are needed
        uv_run(&loop, UV_RUN_ONCE);
    ck_assert(done);
    close(slow);
}
END_TEST

// Writers on other threads, a foreground that takes a little at a time: every byte arrives, in the
// order of its writer.
enum { WRITERS = 3, WRITER_BYTES = 400000 };
static pthread_mutex_t room_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t room_changed = PTHREAD_COND_INITIALIZER;
static unsigned room_generation;

static void wake_writers(void *opaque)
{
    pthread_mutex_lock(&room_lock);
    room_generation++;
    pthread_cond_broadcast(&room_changed);
    pthread_mutex_unlock(&room_lock);
}

static const struct console_guest threaded_guest = {guest_input, wake_writers};

static void *write_many(void *opaque)
{
    const uint8_t tag = (uint8_t)(uintptr_t)opaque;
    uint8_t block[300];
    for (unsigned sent = 0; sent < WRITER_BYTES;) {
        for (unsigned k = 0; k < sizeof(block); k++)
            block[k] = (uint8_t)(tag << 6 | ((sent + k) % 61));
        unsigned want = WRITER_BYTES - sent < sizeof(block) ? WRITER_BYTES - sent : sizeof(block);
        pthread_mutex_lock(&room_lock);
        unsigned generation = room_generation;
        pthread_mutex_unlock(&room_lock);
        size_t taken = console_hub_write(hub, block, want);
        sent += (unsigned)taken;
        if (taken == want)
            continue;
        // Only output_ready() wakes us: were it ever forgotten, the test would hang.
        pthread_mutex_lock(&room_lock);
        while (room_generation == generation)
            pthread_cond_wait(&room_changed, &room_lock);
        pthread_mutex_unlock(&room_lock);
    }
    return NULL;
}

START_TEST(threads_lose_nothing)
{
    pthread_t threads[WRITERS];
    unsigned seen[WRITERS] = {0};
    console_hub_set_guest(hub, &threaded_guest, NULL);
    console_hub_set_foreground(hub, &foreground, NULL);
    for (uintptr_t t = 0; t < WRITERS; t++)
        pthread_create(&threads[t], NULL, write_many, (void *)t);
    while (foreground_length < WRITERS * WRITER_BYTES) {
        foreground_room = 5000;
        console_hub_foreground_ready(hub);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    for (int t = 0; t < WRITERS; t++)
        pthread_join(threads[t], NULL);
    for (size_t i = 0; i < foreground_length; i++) {
        unsigned tag = foreground_received[i] >> 6;
        ck_assert_uint_eq(foreground_received[i] & 63, seen[tag] % 61);
        seen[tag]++;
    }
    for (int t = 0; t < WRITERS; t++)
        ck_assert_uint_eq(seen[t], WRITER_BYTES);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("console");
    TCase *tests = tcase_create("console");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, output_reaches_everybody);
    tcase_add_test(tests, input_comes_from_everybody);
    tcase_add_test(tests, input_waits_for_the_guest);
    tcase_add_test(tests, foreground_holds_the_guest_back);
    tcase_add_test(tests, without_foreground_nobody_holds_it_back);
    tcase_add_test(tests, slow_client_is_told_what_it_missed);
    tcase_add_test(tests, log_keeps_the_newest);
    tcase_add_test(tests, clients_are_bounded);
    tcase_add_test(tests, half_closed_client_still_listens);
    tcase_add_test(tests, drain_waits_for_the_last_byte);
    tcase_add_test(tests, drain_gives_up_on_slow_clients);
    tcase_add_test(tests, threads_lose_nothing);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
