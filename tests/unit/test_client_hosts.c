// What a client host may read, write and watch in the store; and the file by which it knows whom to
// ask.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/member/client_host_file.h"
#include "cluster/member/member_internal.h"
#include "tests/unit/run_suite.h"

static const struct tls_subject who = {.name = "h4", .unit = MEMBER_UNIT_CLIENT_HOST};

static struct store_bytes text(const char *key)
{
    return store_string(key);
}

static bool may(struct store_op op)
{
    struct store_txn txn = {.then = &op, .then_count = 1};
    struct store_txn other = {.otherwise = &op, .otherwise_count = 1};
    bool answer = client_host_may_txn(&who, &txn);
    ck_assert_int_eq(client_host_may_txn(&who, &other), answer);
    return answer;
}

START_TEST(it_writes_what_an_agent_does)
{
    static const char *const good[] = {"ferry/hosts/h4",  "ferry/lives/h4",     "ferry/renewals/h4",
                                       "ferry/owners/a",  "ferry/states/a",     "ferry/machines/a",
                                       "ferry/names/web", "ferry/tombstones/a", "ferry/requests/a"};
    static const char *const bad[] = {
        "ferry/settings",  "ferry/refused/a", "ferry/manager",  "ferry/hosts/h1",
        "ferry/hosts/h44", "ferry/hosts/h",   "ferry/lives/h1", "ferry/renewals/h1",
        "ferry/",          "ferry/others/a",  "ferr",           "key",
        "ferry0",          "ferry/hosts/"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        ck_assert(may((struct store_op){.kind = STORE_PUT, .key = text(good[i])}));
        ck_assert(may((struct store_op){.kind = STORE_DELETE, .key = text(good[i])}));
        ck_assert(!may((struct store_op){.kind = STORE_DELETE,
                                         .key = text(good[i]),
                                         .span = STORE_UNTIL,
                                         .end = text("ferry0")}));
        ck_assert(!may(
            (struct store_op){.kind = STORE_DELETE, .key = text(good[i]), .span = STORE_REST}));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ck_assert_msg(!may((struct store_op){.kind = STORE_PUT, .key = text(bad[i])}), "%s",
                      bad[i]);
        ck_assert(!may((struct store_op){.kind = STORE_DELETE, .key = text(bad[i])}));
    }
}
END_TEST

START_TEST(it_reads_the_records_alone)
{
    static const struct {
        const char *key;
        enum store_span span;
        const char *end;
        bool good;
    } ranges[] = {
        {"ferry/hosts/h1", STORE_ONE, "", true},  {"ferry/settings", STORE_ONE, "", true},
        {"ferry/", STORE_UNTIL, "ferry0", true},  {"ferry/a", STORE_UNTIL, "ferry/b", true},
        {"ferry/", STORE_UNTIL, "ferry1", false}, {"ferry/", STORE_UNTIL, "ferry0a", false},
        {"ferry/", STORE_REST, "", false},        {"a", STORE_UNTIL, "ferry/b", false},
        {"ferry", STORE_UNTIL, "ferry0", false},  {"secret", STORE_ONE, "", false},
    };
    for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
        struct store_op op = {.kind = STORE_RANGE,
                              .key = text(ranges[i].key),
                              .span = ranges[i].span,
                              .end = text(ranges[i].end)};
        ck_assert_msg(may(op) == ranges[i].good, "%s", ranges[i].key);
        ck_assert_int_eq(client_host_may_watch(op.key, op.span, op.end), ranges[i].good);
    }
    // A compare tells something as well.
    struct store_compare compare = {.key = text("secret")};
    struct store_txn txn = {.compares = &compare, .compare_count = 1};
    ck_assert(!client_host_may_txn(&who, &txn));
    compare.key = text("ferry/lives/h1");
    ck_assert(client_host_may_txn(&who, &txn));
}
END_TEST

START_TEST(it_asks_nothing_else)
{
    static const enum protocol_request good[] = {
        REQUEST_TXN,     REQUEST_WATCH,  REQUEST_WATCH_CANCEL, REQUEST_STATUS,
        REQUEST_MEMBERS, REQUEST_ACCESS, REQUEST_HOST_RENEW};
    for (int kind = 0; kind < 64; kind++) {
        bool expected = false;
        for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
            expected = expected || (int)good[i] == kind;
        ck_assert_msg(client_host_may_ask((enum protocol_request)kind) == expected, "%d", kind);
    }
}
END_TEST

START_TEST(its_file)
{
    char directory[] = "/tmp/ferry-client-host-XXXXXX", path[64];
    struct client_host_file file = {.id = 0x123, .cluster = {1, 0xfe}}, back;
    struct error err = {0};
    static const char *const damaged[] = {
        "",
        "ferry-client-host 2\ncluster 01fe0000000000000000000000000000\nid "
        "0000000000000123\nmember a:1\n",
        "ferry-client-host 1\nid 0000000000000123\nmember a:1\n",
        "ferry-client-host 1\ncluster 01fe\nid 0000000000000123\nmember a:1\n",
        "ferry-client-host 1\ncluster 01fe0000000000000000000000000000\nid 12x\nmember a:1\n",
        "ferry-client-host 1\ncluster 01fe0000000000000000000000000000\nid "
        "0000000000000000\nmember a:1\n",
        "ferry-client-host 1\ncluster 01fe0000000000000000000000000000\nid 0000000000000123\n",
    };
    ck_assert_ptr_nonnull(mkdtemp(directory));
    ck_assert(!client_host_file_exists(directory));
    client_host_file_add(&file, "10.0.0.1:7001");
    client_host_file_add(&file, "two,addresses:1"); // not in a list with commas
    client_host_file_add(&file, "a\nmember b:1");
    client_host_file_add(&file, "");
    client_host_file_add(&file, "[::1]:7001");
    ck_assert_uint_eq(file.count, 2);
    ck_assert_int_eq(client_host_file_save(&file, directory, &err), 0);
    ck_assert(client_host_file_exists(directory));
    ck_assert_int_eq(client_host_file_load(&back, directory, &err), 0);
    ck_assert_mem_eq(&back, &file, sizeof(file));
    while (file.count < CLIENT_HOST_MEMBERS)
        client_host_file_add(&file, "10.0.0.1:7001");
    client_host_file_add(&file, "10.0.0.1:7001");
    ck_assert_uint_eq(file.count, CLIENT_HOST_MEMBERS);
    snprintf(path, sizeof(path), "%s/client-host", directory);
    for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
        FILE *out = fopen(path, "w");
        ck_assert(out && fputs(damaged[i], out) >= 0 && fclose(out) == 0);
        ck_assert_msg(client_host_file_load(&back, directory, &err) < 0, "%zu", i);
        ck_assert_ptr_nonnull(strstr(err.message, "join anew"));
    }
    unlink(path);
    rmdir(directory);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("client_hosts");
    TCase *tests = tcase_create("client_hosts");
    tcase_add_test(tests, it_writes_what_an_agent_does);
    tcase_add_test(tests, it_reads_the_records_alone);
    tcase_add_test(tests, it_asks_nothing_else);
    tcase_add_test(tests, its_file);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
