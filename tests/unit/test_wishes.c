// What machines ask of hosts and hosts tell of themselves: words, pools, rules, paths that would
// leave a pool; and that placement gets it (placer).
#include <check.h>
#include <string.h>

#include "cluster/manager/placer.h"
#include "cluster/records/wishes.h"
#include "tests/unit/run_suite.h"

static const struct {
    const char *placement, *why; // NULL: fine
} wishes_cases[] = {
    {"{}", NULL},
    {"{\"labels\":[\"a\",\"b=c\"],\"nets\":[],\"pools\":[\"p\"],\"host_labels\":[\"x\"]}", NULL},
    {"{\"rules\":[{\"with\":\"machine:a\"},{\"away\":\"host-label:b\",\"strict\":false,"
     "\"weight\":1000}]}",
     NULL},
    {"[]", "must be an object"},
    {"{\"label\":[]}", "unknown key"},
    {"{\"labels\":\"a\"}", "must be a list"},
    {"{\"labels\":[1]}", "a word is"},
    {"{\"labels\":[\"a b\"]}", "a word is"},
    {"{\"labels\":[\"\"]}", "a word is"},
    {"{\"rules\":{}}", "must be a list"},
    {"{\"rules\":[{}]}", "\"with\" or \"away\""},
    {"{\"rules\":[{\"with\":\"host:a\",\"away\":\"host:b\"}]}", "\"with\" or \"away\""},
    {"{\"rules\":[{\"with\":\"rack:a\"}]}", "a rule names"},
    {"{\"rules\":[{\"with\":\"host:\"}]}", "a rule names"},
    {"{\"rules\":[{\"with\":\"host:a\",\"weight\":0}]}", "weight"},
    {"{\"rules\":[{\"with\":\"host:a\",\"strict\":1}]}", "strict"},
    {"{\"rules\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}", "at most"},
};

START_TEST(test_wishes_are_checked)
{
    struct error err = {0};
    json_t *object = json_loads(wishes_cases[_i].placement, 0, NULL);
    ck_assert_ptr_nonnull(object);
    int r = wishes_check(object, NULL, &err);
    json_decref(object);
    ck_assert_int_eq(r != 0, wishes_cases[_i].why != NULL);
    if (wishes_cases[_i].why)
        ck_assert_msg(strstr(err.message, wishes_cases[_i].why), "%s", err.message);
}
END_TEST

START_TEST(test_wishes_follow_from_the_description)
{
    struct wishes wishes;
    ck_assert_int_eq(wishes_read(&wishes, "{\"pools\":[\"more\"]}",
                                 "{\"kernel\":\"boot:vmlinuz\",\"cpu\":\"x86-64-v3,-avx,+gfni\","
                                 "\"disks\":[{\"path\":\"/plain:not\"},{\"path\":\"data:a/b\"}]}"),
                     0);
    ck_assert_str_eq(wishes.pools.list[0], "more");
    ck_assert_str_eq(wishes.pools.list[1], "boot");
    ck_assert_str_eq(wishes.pools.list[2], "data");
    ck_assert_ptr_null(wishes.pools.list[3]);
    ck_assert_uint_eq(wishes.cpu_level, 3);
    ck_assert(!wishes.host_cpu);
    ck_assert_str_eq(wishes.features.list[0], "gfni");
    ck_assert_ptr_null(wishes.features.list[1]);
    wishes_free(&wishes);
}
END_TEST

static const struct {
    const char *path, *resolved; // NULL: refused
} path_cases[] = {
    {"/plain/file", "/plain/file"},
    {"/with:colon", "/with:colon"},
    {"data:disk.img", "/srv/data/disk.img"},
    {"data:a/b..c/d", "/srv/data/a/b..c/d"},
    {"data:../etc/shadow", NULL},
    {"data:a/../../b", NULL},
    {"data:a/..", NULL},
    {"data:/etc/shadow", NULL},
    {"data:", NULL},
    {"other:disk.img", NULL},
};

START_TEST(test_paths_stay_in_their_pool)
{
    struct error err = {0};
    char out[PATH_MAX];
    json_t *facts = json_object();
    ck_assert_int_eq(facts_add_pool(facts, "data=/srv/data,local", &err), 0);
    int r = facts_resolve(facts, path_cases[_i].path, out, &err);
    json_decref(facts);
    ck_assert_int_eq(r == 0, path_cases[_i].resolved != NULL);
    if (path_cases[_i].resolved)
        ck_assert_str_eq(out, path_cases[_i].resolved);
}
END_TEST

START_TEST(test_facts_are_checked)
{
    struct error err = {0};
    json_t *facts = json_object();
    ck_assert_int_ne(facts_add_pool(facts, "data", &err), 0);
    ck_assert_int_ne(facts_add_pool(facts, "data=relative", &err), 0);
    ck_assert_int_ne(facts_add_pool(facts, "Data=/srv", &err), 0);
    ck_assert_int_ne(facts_add_label(facts, "a,b", &err), 0);
    ck_assert_int_ne(facts_add_net(facts, "", &err), 0);
    ck_assert_int_ne(facts_set_ratio(facts, "cpu_ratio", "nan", &err), 0);
    ck_assert_int_ne(facts_set_ratio(facts, "cpu_ratio", "0", &err), 0);
    ck_assert_int_ne(facts_set_ratio(facts, "cpu_ratio", "2x", &err), 0);
    ck_assert_int_eq(facts_set_ratio(facts, "cpu_ratio", "1.5", &err), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(facts, "cpu_ratio")), 1500);
    ck_assert_int_eq(facts_add_cpu(facts, &err), 0);
    ck_assert_int_ge(json_integer_value(json_object_get(facts, "cpu_level")), 1);
    json_decref(facts);
}
END_TEST

// ---- placement gets it ----

static void add(struct record_view *view, enum record_kind kind, const char *name, const char *text)
{
    struct record record = {.key = record_key_of(kind, name), .mod = 1};
    struct error err = {0};
    ck_assert_msg(record_decode(kind, store_string(text), &record.value, &err) == 0, "%s",
                  err.message);
    ck_assert_int_eq(record_view_add(view, &record), 0);
}

#define LIFE "{\"v\":1,\"incarnation\":1,\"identity\":\"i\",\"boot_id\":\"b\",\"fenced\":false}"
#define MACHINE(rest)                                                                              \
    "{\"v\":1,\"name\":\"m\",\"wish\":\"running\",\"restart\":\"always\",\"cpus\":1,"              \
    "\"memory\":1,\"wish_number\":1," rest "}"

static const struct {
    const char *machine, *owner, *host; // where it goes; NULL: nowhere
} placer_cases[] = {
    {MACHINE("\"placement\":{\"host_labels\":[\"fast\"]}"), "\"stage\":\"none\",\"host\":\"\"",
     "b"},
    {MACHINE("\"placement\":{\"nets\":[\"lan\"]}"), "\"stage\":\"none\",\"host\":\"\"", "a"},
    {MACHINE("\"placement\":{\"nets\":[\"wan\"]}"), "\"stage\":\"none\",\"host\":\"\"", NULL},
    {MACHINE("\"placement\":{\"rules\":[{\"away\":\"host:a\"}]}"),
     "\"stage\":\"none\",\"host\":\"\"", "b"},
    {MACHINE("\"description\":{\"cpu\":\"x86-64-v4\"}"), "\"stage\":\"none\",\"host\":\"\"", "a"},
    {MACHINE("\"description\":{\"cpu\":\"x86-64-v2,+gfni\"}"), "\"stage\":\"none\",\"host\":\"\"",
     "a"},
    // It runs with all that its host's CPU has, and the other's is another.
    {MACHINE("\"description\":{\"cpu\":\"host\"}"), "\"stage\":\"started\",\"host\":\"a\"", NULL},
    {MACHINE("\"description\":{\"cpu\":\"x86-64-v2\"}"), "\"stage\":\"started\",\"host\":\"a\"",
     "b"},
    // Its files are on the host that had it.
    {MACHINE("\"description\":{\"disks\":[{\"path\":\"data:d\"}]}"),
     "\"stage\":\"none\",\"host\":\"\",\"ran\":true,\"home\":\"b\"", "b"},
    {MACHINE("\"description\":{\"disks\":[{\"path\":\"data:d\"}]}"),
     "\"stage\":\"started\",\"host\":\"b\",\"ran\":true", NULL},
};

START_TEST(test_placer_hands_it_on)
{
    struct record_view view;
    struct placement_decision decision;
    char owner[300];
    record_view_init(&view);
    add(&view, RECORD_LIFE, "a", LIFE);
    add(&view, RECORD_LIFE, "b", LIFE);
    add(&view, RECORD_HOST, "a",
        "{\"v\":1,\"cpus\":4,\"memory\":100,\"facts\":{\"nets\":[\"lan\"],\"cpu_level\":4,"
        "\"cpu_id\":\"x\",\"cpu_features\":[\"gfni\"],\"pools\":[{\"name\":\"data\","
        "\"path\":\"/a\",\"shared\":false}]}}");
    add(&view, RECORD_HOST, "b",
        "{\"v\":1,\"cpus\":4,\"memory\":100,\"facts\":{\"labels\":[\"fast\"],\"cpu_level\":3,"
        "\"cpu_id\":\"y\",\"pools\":[{\"name\":\"data\",\"path\":\"/b\",\"shared\":false}]}}");
    add(&view, RECORD_MACHINE, "u", placer_cases[_i].machine);
    snprintf(owner, sizeof(owner), "{\"v\":1,\"incarnation\":1,\"epoch\":1,%s}",
             placer_cases[_i].owner);
    add(&view, RECORD_OWNER, "u", owner);
    struct placement *placement = placer_create(&view);
    ck_assert_ptr_nonnull(placement);
    ck_assert_int_eq(placement_decide(placement, "u", &decision), 0);
    if (placer_cases[_i].host)
        ck_assert_str_eq(decision.host ? decision.host : "", placer_cases[_i].host);
    else
        ck_assert_ptr_null(decision.host);
    placement_destroy(placement);
    record_view_free(&view);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wishes");
    TCase *tcase = tcase_create("wishes");
#define COUNT(list) ((int)(sizeof(list) / sizeof((list)[0])))
    tcase_add_loop_test(tcase, test_wishes_are_checked, 0, COUNT(wishes_cases));
    tcase_add_test(tcase, test_wishes_follow_from_the_description);
    tcase_add_loop_test(tcase, test_paths_stay_in_their_pool, 0, COUNT(path_cases));
    tcase_add_test(tcase, test_facts_are_checked);
    tcase_add_loop_test(tcase, test_placer_hands_it_on, 0, COUNT(placer_cases));
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
