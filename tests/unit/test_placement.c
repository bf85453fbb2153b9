// Placement: filters with their reasons, scores, rules both ways, order of arrival, and machines
// that come to rest.
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/placement/placement.h"
#include "tests/unit/run_suite.h"

#define GIB (UINT64_C(1) << 30)

static struct placement *p;
static struct placement_policy policy;

static void set_up(void)
{
    policy = (struct placement_policy){0};
    p = placement_create(&policy);
}
static void tear_down(void)
{
    placement_destroy(p);
}

static struct placement_host host(const char *name)
{
    return (struct placement_host){
        .name = name, .healthy = true, .cpus = 8, .memory = 32 * GIB, .cpu_level = 3};
}
static struct placement_machine machine(const char *id)
{
    return (struct placement_machine){.id = id, .cpus = 1, .memory = GIB};
}
static void add_host(const char *name)
{
    struct placement_host h = host(name);
    ck_assert_int_eq(placement_set_host(p, &h), 0);
}
static void add_machine(const char *id, const char *where)
{
    struct placement_machine m = machine(id);
    m.host = where;
    ck_assert_int_eq(placement_set_machine(p, &m), 0);
}
static void add_ruled(const char *id, const char *where, const struct placement_rule *rules,
                      unsigned count)
{
    struct placement_machine m = machine(id);
    m.host = where;
    m.rules = rules;
    m.rule_count = count;
    ck_assert_int_eq(placement_set_machine(p, &m), 0);
}
static const char *decide(const char *id)
{
    struct placement_decision d;
    ck_assert_int_eq(placement_decide(p, id, &d), 0);
    return d.host ? d.host : "";
}

struct seen {
    const char *host;
    enum placement_reason reason;
    char text[PLACEMENT_REASON_SIZE];
};
static int on_verdict(void *opaque, const struct placement_verdict *v)
{
    struct seen *seen = opaque;
    if (strcmp(v->host, seen->host) != 0)
        return 0;
    seen->reason = v->reason;
    snprintf(seen->text, sizeof(seen->text), "%s", v->text);
    return 1;
}
// Why a host is out, and that the sentence says `part`.
static void check_reason(const char *id, const char *where, enum placement_reason reason,
                         const char *part)
{
    struct seen seen = {.host = where, .reason = PLACEMENT_REASONS};
    ck_assert_int_eq(placement_explain(p, id, on_verdict, &seen), 1);
    ck_assert_msg(seen.reason == reason, "%s: %s", placement_reason_name(seen.reason), seen.text);
    ck_assert_msg(strstr(seen.text, part) != NULL, "%s", seen.text);
    struct placement_decision d;
    ck_assert_int_eq(placement_decide(p, id, &d), 0);
    ck_assert_uint_ge(d.rejected[reason], 1);
    struct placement_verdict alone;
    ck_assert_int_eq(placement_explain_host(p, id, where, &alone), 0);
    ck_assert_int_eq(alone.reason, reason);
    ck_assert_str_eq(alone.text, seen.text);
    ck_assert_int_eq(placement_explain_host(p, id, "nowhere", &alone), -ENOENT);
    ck_assert_int_eq(placement_explain_host(p, "nobody", where, &alone), -ENOENT);
}

START_TEST(test_filters)
{
    static const char *const labels[] = {"disk=ssd", NULL}, *const pools[] = {"fast", NULL};
    static const char *const nets[] = {"br0", NULL}, *const features[] = {"avx512f", NULL};
    struct placement_host h = host("good");
    h.labels = labels;
    h.pools = pools;
    h.nets = nets;
    h.cpu_features = features;
    h.cpu_id = "epyc-9";
    placement_set_host(p, &h);
    h.name = "dead", h.healthy = false;
    placement_set_host(p, &h);
    h.name = "leaving", h.healthy = true, h.draining = true;
    placement_set_host(p, &h);
    h.name = "plain", h.draining = false, h.labels = NULL;
    placement_set_host(p, &h);
    h.name = "poolless", h.labels = labels, h.pools = NULL;
    placement_set_host(p, &h);
    h.name = "netless", h.pools = pools, h.nets = NULL;
    placement_set_host(p, &h);
    h.name = "old", h.nets = nets, h.cpu_level = 2;
    placement_set_host(p, &h);
    h.name = "bare", h.cpu_level = 3, h.cpu_features = NULL;
    placement_set_host(p, &h);
    h.name = "other", h.cpu_features = features, h.cpu_id = "xeon-8";
    placement_set_host(p, &h);
    h.name = "small", h.cpu_id = "epyc-9", h.cpus = 1;
    placement_set_host(p, &h);
    h.name = "tight", h.cpus = 8, h.memory = 2 * GIB;
    placement_set_host(p, &h);
    struct placement_machine m = machine("m");
    m.cpus = 2, m.memory = 4 * GIB, m.cpu_level = 3, m.cpu_id = "epyc-9";
    m.cpu_features = features, m.host_labels = labels, m.pools = pools, m.nets = nets;
    placement_set_machine(p, &m);
    ck_assert_str_eq(decide("m"), "good");
    check_reason("m", "dead", PLACEMENT_UNHEALTHY, "not there");
    check_reason("m", "leaving", PLACEMENT_DRAINING, "draining");
    check_reason("m", "plain", PLACEMENT_LABELS, "disk=ssd");
    check_reason("m", "poolless", PLACEMENT_POOLS, "'fast'");
    check_reason("m", "netless", PLACEMENT_NETS, "'br0'");
    check_reason("m", "old", PLACEMENT_CPU_MODEL, "x86-64-v2");
    check_reason("m", "bare", PLACEMENT_CPU_MODEL, "avx512f");
    check_reason("m", "other", PLACEMENT_CPU_MODEL, "another");
    check_reason("m", "small", PLACEMENT_CPUS, "wants 2, the host has 1");
    check_reason("m", "tight", PLACEMENT_MEMORY, "wants 4 GiB, 2 GiB of 2 GiB is free");
    m.only_on = "plain";
    placement_set_machine(p, &m);
    check_reason("m", "good", PLACEMENT_OTHER_HOST, "may only be on plain");
    struct placement_decision d;
    char text[300];
    placement_decide(p, "m", &d);
    ck_assert_ptr_null(d.host);
    placement_summary(&d, text, sizeof(text));
    ck_assert_ptr_nonnull(strstr(text, "no host fits: "));
    ck_assert_ptr_nonnull(strstr(text, "1 lack a label"));
    ck_assert_ptr_nonnull(strstr(text, "1 are draining"));
}
END_TEST

START_TEST(test_room_and_reservations)
{
    struct placement_host h = host("a");
    h.cpu_ratio = 2000;
    placement_set_host(p, &h);
    add_host("b");
    char id[16];
    // 16 of them: CPUs are promised twice. One more is one too many; moving ones count at both.
    for (int i = 0; i < 16; i++) {
        snprintf(id, sizeof(id), "m%02d", i);
        add_machine(id, "a");
    }
    add_machine("new", NULL);
    check_reason("new", "a", PLACEMENT_CPUS, "wants 1, 0.000 of 16 are free");
    ck_assert_int_eq(placement_remove_machine(p, "m03"), 0);
    struct placement_decision d;
    placement_decide(p, "new", &d);
    ck_assert_str_eq(d.host, "b");
    ck_assert_str_eq(d.reservation.machine, "new");
    ck_assert_str_eq(d.reservation.host, "b");
    ck_assert_uint_eq(d.reservation.memory, GIB);
    struct placement_machine big = machine("big");
    big.cpus = 8, big.memory = 30 * GIB, big.host = "a", big.moving = "b";
    placement_set_machine(p, &big);
    check_reason("new", "b", PLACEMENT_CPUS, "free");
    ck_assert_int_eq(placement_move_machine(p, "big", "b", NULL), 0);
    ck_assert_str_eq(decide("new"), "a");
    uint32_t cpus, memory;
    ck_assert_int_eq(placement_host_load(p, "a", &cpus, &memory), 0);
    ck_assert_uint_eq(cpus, 15 * 1000 / 16);
    // A host that comes after its machines has given already.
    ck_assert_int_eq(placement_remove_host(p, "b"), 0);
    ck_assert_int_eq(placement_host_load(p, "b", &cpus, &memory), -ENOENT);
    add_host("b");
    ck_assert_int_eq(placement_host_load(p, "b", &cpus, &memory), 0);
    ck_assert_uint_eq(cpus, 1000);
}
END_TEST

START_TEST(test_balance_and_packing)
{
    for (int pack = 0; pack < 2; pack++) {
        struct placement_policy other = {.pack = pack};
        placement_destroy(p);
        p = placement_create(&other);
        add_host("a");
        add_host("b");
        add_host("c");
        add_machine("x", "b");
        add_machine("y", "b");
        add_machine("z", "c");
        add_machine("new", NULL);
        ck_assert_str_eq(decide("new"), pack ? "b" : "a");
    }
}
END_TEST

// Whatever order it comes in, and however often; ties go to the first name.
START_TEST(test_deterministic)
{
    static const char *const names[] = {"h3", "h1", "h2", "h0"};
    for (int order = 0; order < 4; order++) {
        placement_destroy(p);
        p = placement_create(&policy);
        for (int i = 0; i < 4; i++)
            add_host(names[(i + order) % 4]);
        char id[16];
        for (int i = 0; i < 40; i++) {
            snprintf(id, sizeof(id), "m%02d", order % 2 ? 39 - i : i);
            add_machine(id, NULL);
        }
        for (int i = 0; i < 8; i++) {
            snprintf(id, sizeof(id), "m%02d", i);
            const char *where = decide(id);
            char expected[8];
            snprintf(expected, sizeof(expected), "h%d", i % 4);
            ck_assert_str_eq(where, expected);
            placement_move_machine(p, id, where, NULL);
        }
    }
}
END_TEST

START_TEST(test_rules)
{
    static const char *const web[] = {"app=web", NULL}, *const rack[] = {"rack=1", NULL};
    add_host("a");
    add_host("b");
    struct placement_host h = host("c");
    h.labels = rack;
    placement_set_host(p, &h);
    struct placement_machine m = machine("web1");
    m.labels = web, m.host = "a";
    placement_set_machine(p, &m);

    const struct placement_rule with = {PLACEMENT_MACHINE, "web1", .strict = true};
    add_ruled("m", NULL, &with, 1);
    ck_assert_str_eq(decide("m"), "a");
    check_reason("m", "b", PLACEMENT_WITH, "must be with web1");
    const struct placement_rule away = {PLACEMENT_LABEL, "app=web", .away = true, .strict = true};
    add_ruled("m", NULL, &away, 1);
    check_reason("m", "a", PLACEMENT_AWAY, "web1");
    const struct placement_rule on = {PLACEMENT_HOST_LABEL, "rack=1", .strict = true};
    add_ruled("m", NULL, &on, 1);
    ck_assert_str_eq(decide("m"), "c");
    const struct placement_rule not_there[] = {
        {PLACEMENT_HOST, "b", .away = true, .strict = true},
        {PLACEMENT_HOST_LABEL, "rack=1", .away = true, .strict = true}};
    add_ruled("m", NULL, not_there, 2);
    ck_assert_str_eq(decide("m"), "a");
    // Soft ones give way where nothing else is possible.
    const struct placement_rule rather[] = {{PLACEMENT_LABEL, "app=web", .away = true},
                                            {PLACEMENT_HOST, "b", .away = true}};
    add_ruled("m", NULL, rather, 2);
    ck_assert_str_eq(decide("m"), "c");
    const struct placement_rule heavy[] = {{PLACEMENT_LABEL, "app=web", .weight = 3},
                                           {PLACEMENT_HOST, "a", .away = true, .weight = 2}};
    add_ruled("m", NULL, heavy, 2);
    ck_assert_str_eq(decide("m"), "a");
    // Nobody has the label yet: the first goes where it likes.
    const struct placement_rule first = {PLACEMENT_LABEL, "app=db", .strict = true};
    add_ruled("m", NULL, &first, 1);
    ck_assert_str_ne(decide("m"), "");
}
END_TEST

// A rule binds both.
START_TEST(test_rules_of_others)
{
    add_host("a");
    add_host("b");
    const struct placement_rule away = {PLACEMENT_MACHINE, "new", .away = true, .strict = true};
    add_ruled("hermit", "a", &away, 1);
    add_machine("new", NULL);
    check_reason("new", "a", PLACEMENT_AWAY, "hermit");
    ck_assert_str_eq(decide("new"), "b");
    const struct placement_rule with = {PLACEMENT_MACHINE, "new", .strict = true};
    add_ruled("friend", "a", &with, 1);
    placement_remove_machine(p, "hermit");
    ck_assert_str_eq(decide("new"), "a");
    check_reason("new", "b", PLACEMENT_WITH, "is on a");
}
END_TEST

// Two that must be together leave a host that drains one after the other, to the same host, which
// must have room for both.
START_TEST(test_companions)
{
    add_host("a");
    struct placement_host h = host("b");
    h.memory = 3 * GIB;
    placement_set_host(p, &h);
    add_host("c");
    const struct placement_rule with_y = {PLACEMENT_MACHINE, "y", .strict = true};
    struct placement_machine x = machine("x"), y = machine("y");
    x.memory = y.memory = 2 * GIB;
    x.host = y.host = "a";
    x.rules = &with_y, x.rule_count = 1;
    placement_set_machine(p, &x);
    placement_set_machine(p, &y);
    struct placement_decision d;
    bool must_go;
    placement_reconsider(p, "x", &d, &must_go);
    ck_assert(!must_go && !d.host);
    ck_assert_str_eq(decide("y"), ""); // x is here and may stay
    h = host("a");
    h.draining = true;
    placement_set_host(p, &h);
    check_reason("y", "b", PLACEMENT_COMPANIONS, "4 GiB in all");
    placement_reconsider(p, "y", &d, &must_go);
    ck_assert(must_go);
    ck_assert_str_eq(d.host, "c");
    placement_move_machine(p, "y", "c", NULL);
    placement_reconsider(p, "x", &d, &must_go);
    ck_assert(must_go);
    ck_assert_str_eq(d.host, "c");
    placement_move_machine(p, "x", "c", NULL);
    for (int i = 0; i < 2; i++) {
        placement_reconsider(p, i ? "x" : "y", &d, &must_go);
        ck_assert(!must_go && !d.host);
    }
}
END_TEST

// Runs reconsider over all machines until nobody moves; the number of moves, or -1 when there is no
// end.
static int come_to_rest(const char *const *ids, unsigned count)
{
    int moves = 0;
    for (int round = 0; round < 200; round++) {
        bool moved = false;
        for (unsigned i = 0; i < count; i++) {
            struct placement_decision d;
            bool must_go;
            placement_reconsider(p, ids[i], &d, &must_go);
            if (!d.host)
                continue;
            placement_move_machine(p, ids[i], d.host, NULL);
            moved = true;
            moves++;
        }
        if (!moved)
            return moves;
    }
    return -1;
}

START_TEST(test_pairs_do_not_bounce)
{
    static const struct {
        bool first_away, second_away;
        unsigned first_weight, second_weight;
    } pairs[] = {{false, true, 1, 1}, {true, false, 1, 1}, {false, true, 1, 2},
                 {false, true, 2, 1}, {true, true, 1, 1},  {false, false, 1, 1},
                 {true, false, 5, 4}};
    static const char *const ids[] = {"x", "y"};
    for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        for (int apart = 0; apart < 2; apart++) {
            placement_destroy(p);
            p = placement_create(&policy);
            add_host("a");
            add_host("b");
            add_host("c");
            const struct placement_rule first = {PLACEMENT_MACHINE, "y",
                                                 .away = pairs[i].first_away,
                                                 .weight = pairs[i].first_weight};
            const struct placement_rule second = {PLACEMENT_MACHINE, "x",
                                                  .away = pairs[i].second_away,
                                                  .weight = pairs[i].second_weight};
            add_ruled("x", "a", &first, 1);
            add_ruled("y", apart ? "b" : "a", &second, 1);
            int moves = come_to_rest(ids, 2);
            ck_assert_msg(moves >= 0 && moves <= 2, "pair %u: %d moves", i, moves);
        }
    }
}
END_TEST

static uint32_t state;
static uint32_t draw(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(state >> 8) * below >> 24);
}

// Random worlds with rules of all kinds: they come to rest, and then every strict rule holds for
// who isn't stuck.
START_TEST(test_worlds_come_to_rest)
{
    enum { HOSTS = 8, MACHINES = 30 };
    static char ids[MACHINES][16], hosts[HOSTS][16];
    static const char *list[MACHINES];
    static const char *const labels[3][2] = {{"l0", NULL}, {"l1", NULL}, {"l2", NULL}};
    state = (uint32_t)_i + 1;
    struct placement_policy random_policy = {.pack = draw(2), .rule_weight = draw(3)};
    placement_destroy(p);
    p = placement_create(&random_policy);
    for (int i = 0; i < HOSTS; i++) {
        snprintf(hosts[i], sizeof(hosts[i]), "h%d", i);
        struct placement_host h = host(hosts[i]);
        h.cpus = 8 + draw(16), h.memory = (16 + draw(32)) * GIB;
        placement_set_host(p, &h);
    }
    for (int i = 0; i < MACHINES; i++) {
        snprintf(ids[i], sizeof(ids[i]), "m%d", i);
        list[i] = ids[i];
    }
    for (int i = 0; i < MACHINES; i++) {
        struct placement_rule rules[3];
        struct placement_machine m = machine(ids[i]);
        m.cpus = 1 + draw(3), m.memory = (1 + draw(4)) * GIB;
        m.labels = labels[draw(3)];
        m.host = hosts[draw(HOSTS)];
        m.rules = rules, m.rule_count = draw(4);
        for (unsigned r = 0; r < m.rule_count; r++)
            rules[r] = (struct placement_rule){
                .scope = draw(2) ? PLACEMENT_MACHINE : PLACEMENT_LABEL,
                .value = "",
                .away = draw(2),
                .weight = 1 + draw(3),
            };
        for (unsigned r = 0; r < m.rule_count; r++)
            rules[r].value =
                rules[r].scope == PLACEMENT_MACHINE ? ids[draw(MACHINES)] : labels[draw(3)][0];
        ck_assert_int_eq(placement_set_machine(p, &m), 0);
    }
    ck_assert_int_ge(come_to_rest(list, MACHINES), 0);
}
END_TEST

START_TEST(test_evacuation_says_why_it_stops)
{
    struct placement_host h = host("a");
    h.draining = true;
    placement_set_host(p, &h);
    h = host("b");
    h.cpus = 2;
    placement_set_host(p, &h);
    add_machine("x", "a");
    add_machine("y", "a");
    add_machine("z", "a");
    static const char *const ids[] = {"x", "y", "z"};
    ck_assert_int_eq(come_to_rest(ids, 3), 2);
    struct placement_decision d;
    bool must_go;
    char text[300];
    placement_reconsider(p, "z", &d, &must_go);
    ck_assert(must_go && !d.host);
    ck_assert_ptr_nonnull(strstr(placement_summary(&d, text, sizeof(text)), "1 lack CPUs"));
}
END_TEST

START_TEST(test_what_cannot_be)
{
    struct placement_host h = host("");
    ck_assert_int_eq(placement_set_host(p, &h), -EINVAL);
    struct placement_machine m = machine(NULL);
    ck_assert_int_eq(placement_set_machine(p, &m), -EINVAL);
    m = machine("m");
    m.rule_count = PLACEMENT_RULES_LIMIT + 1;
    ck_assert_int_eq(placement_set_machine(p, &m), -EINVAL);
    struct placement_decision d;
    ck_assert_int_eq(placement_decide(p, "nobody", &d), -ENOENT);
    ck_assert_int_eq(placement_remove_host(p, "nobody"), -ENOENT);
    ck_assert_int_eq(placement_remove_machine(p, "nobody"), -ENOENT);
    add_machine("m", "unknown");
    ck_assert_str_eq(decide("m"), "");
    char text[100];
    placement_decide(p, "m", &d);
    ck_assert_str_eq(placement_summary(&d, text, sizeof(text)), "no host fits: there is none");
    // A summary that doesn't fit is cut, no more.
    char small[20];
    h = host("a");
    h.draining = true;
    placement_set_host(p, &h);
    placement_decide(p, "m", &d);
    placement_summary(&d, small, sizeof(small));
    ck_assert_uint_lt(strlen(small), sizeof(small));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("placement");
    TCase *tc = tcase_create("placement");
    tcase_add_checked_fixture(tc, set_up, tear_down);
    tcase_add_test(tc, test_filters);
    tcase_add_test(tc, test_room_and_reservations);
    tcase_add_test(tc, test_balance_and_packing);
    tcase_add_test(tc, test_deterministic);
    tcase_add_test(tc, test_rules);
    tcase_add_test(tc, test_rules_of_others);
    tcase_add_test(tc, test_companions);
    tcase_add_test(tc, test_pairs_do_not_bounce);
    tcase_add_loop_test(tc, test_worlds_come_to_rest, 0, 100);
    tcase_add_test(tc, test_evacuation_says_why_it_stops);
    tcase_add_test(tc, test_what_cannot_be);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
