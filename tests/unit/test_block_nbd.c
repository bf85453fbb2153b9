// Disks of NBD servers: their addresses, and what comes of servers that are none, or say nothing.
#include <check.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/block/block_nbd.h"
#include "tests/unit/run_suite.h"
#include "vmm/helper.h"

static struct error err;
static int control[2]; // the disk's end, the helper's

static void set_up(void)
{
    memset(&err, 0, sizeof(err));
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, control),
                     0);
}

static void tear_down(void)
{
    close(control[0]);
    close(control[1]);
}

START_TEST(addresses)
{
    static const struct {
        const char *address, *host, *port, *path, *export_name;
    } good[] = {
        {"nbd://host", "host", "10809", "", ""},
        {"nbd://host/", "host", "10809", "", ""},
        {"nbd://host:7/disk", "host", "7", "", "disk"},
        {"nbd://10.0.0.1/a/b", "10.0.0.1", "10809", "", "a/b"},
        {"nbd://[fe80::1]", "fe80::1", "10809", "", ""},
        {"nbd://[::1]:7/x", "::1", "7", "", "x"},
        {"nbd+unix:///?socket=/run/s", "", "", "/run/s", ""},
        {"nbd+unix:///disk?socket=/run/s", "", "", "/run/s", "disk"},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct block_nbd_place place;
        ck_assert(block_nbd_is_address(good[i].address));
        ck_assert_msg(block_nbd_parse(good[i].address, &place, &err) == 0, "%s", err.message);
        ck_assert_str_eq(place.host, good[i].host);
        ck_assert_str_eq(place.port, good[i].port);
        ck_assert_str_eq(place.path, good[i].path);
        ck_assert_str_eq(place.export_name, good[i].export_name);
    }
}
END_TEST

START_TEST(what_is_no_address)
{
    static const char *const bad[] = {
        "nbd://",
        "nbd:///disk",
        "nbd://:7",
        "nbd://host:",
        "nbd://host:x",
        "nbd://host:7x/disk",
        "nbd://host:1234567890",
        "nbd://[::1",
        "nbd://[::1]7",
        "nbd://[]",
        "nbd://a:1:2",
        "nbd://host/a%20b",
        "nbd://host/a?b",
        "nbd+unix://",
        "nbd+unix:///",
        "nbd+unix:///?socket=",
        "nbd+unix:///?socket=run",
        "nbd+unix://x?socket=/s",
        "nbds://host/",
    };
    char long_one[700] = "nbd://";
    struct block_nbd_place place;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_msg(block_nbd_parse(bad[i], &place, &err) < 0, "%s", bad[i]);
        ck_assert_ptr_nonnull(strstr(err.message, bad[i]));
    }
    memset(long_one + 6, 'a', 300);
    ck_assert_int_lt(block_nbd_parse(long_one, &place, &err), 0);
    strcpy(long_one, "nbd+unix:///?socket=/");
    memset(long_one + strlen(long_one), 'a', 200);
    ck_assert_int_lt(block_nbd_parse(long_one, &place, &err), 0);
    ck_assert(!block_nbd_is_address("/tmp/nbd"));
    ck_assert(!block_nbd_is_address("nbd"));
}
END_TEST

// Making the disk fails, with a sentence that has these words.
static void fails_with(const atomic_bool *cancelled, const char *words)
{
    struct block_backend *backend;
    const struct block_file_config config = {.cache = BLOCK_CACHE_WRITEBACK};
    int rc = block_nbd_create(&backend, control[0], "nbd://host/disk", &config, cancelled, &err);
    ck_assert_int_lt(rc, 0);
    ck_assert_msg(strstr(err.message, words) && strstr(err.message, "nbd://host/disk"), "%s",
                  err.message);
}

// The helper hands over a connection to a server that has said this.
static int connect_to(const void *greeting, size_t length)
{
    int ends[2];
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    ck_assert_int_eq(send(ends[1], greeting, length, 0), (ssize_t)length);
    ck_assert_int_eq(helper_send(control[1], "c", 1, ends[0]), 0);
    close(ends[0]);
    return ends[1];
}

START_TEST(helpers_reasons_are_told)
{
    ck_assert_int_eq(send(control[1], "nobody is there", 15, 0), 15);
    fails_with(NULL, "nobody is there");
    shutdown(control[1], SHUT_RDWR);
    fails_with(NULL, "can't be reached");
}
END_TEST

START_TEST(what_is_no_server)
{
    static const char nonsense[] =
        "HTTP/1.0 400 Bad Request\r\n\r\nit is none, and says much of that";
    int fd = connect_to(nonsense, sizeof(nonsense));
    fails_with(NULL, "magic");
    close(fd);
    // It ends in the middle of its greeting.
    fd = connect_to("NBDMAGIC", 8);
    close(fd);
    fails_with(NULL, "");
}
END_TEST

// An old server's greeting, all of which is in one piece: magic numbers, size, flags, zeroes.
START_TEST(sizes_are_looked_at)
{
    uint8_t greeting[152] = "NBDMAGIC";
    static const uint8_t old[8] = {0x00, 0x00, 0x42, 0x02, 0x81, 0x86, 0x12, 0x53};
    memcpy(greeting + 8, old, sizeof(old));
    greeting[22] = 1; // 256 bytes, big-endian
    greeting[27] = 1; // has flags
    int fd = connect_to(greeting, sizeof(greeting));
    fails_with(NULL, "empty");
    close(fd);
    greeting[20] = 1; // larger
    greeting[27] = 3; // and read-only
    fd = connect_to(greeting, sizeof(greeting));
    fails_with(NULL, "read-only");
    close(fd);
}
END_TEST

START_TEST(nobody_waits_any_more)
{
    const atomic_bool cancelled = true;
    fails_with(&cancelled, "can't be reached");
    int fd = connect_to("", 0);
    fails_with(&cancelled, "can't be reached");
    close(fd);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("NBD disks");
    TCase *t = tcase_create("nbd");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, addresses);
    tcase_add_test(t, what_is_no_address);
    tcase_add_test(t, helpers_reasons_are_told);
    tcase_add_test(t, what_is_no_server);
    tcase_add_test(t, sizes_are_looked_at);
    tcase_add_test(t, nobody_waits_any_more);
    suite_add_tcase(s, t);
    return run_suite(s);
}
