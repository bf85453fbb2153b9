// Records of the cluster: values and keys there and back, what isn't one, views, the time-outs'
// rule; renewals, registration and the manager's patience, each step by itself.
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cluster/agent/renewal.h"
#include "cluster/manager/declare.h"
#include "cluster/manager/manager.h"
#include "cluster/records/left.h"
#include "tests/unit/run_suite.h"

static struct store_bytes bytes_of(const char *text)
{
    return store_string(text);
}

static const union record_value samples[RECORD_KINDS] = {
    [RECORD_SETTINGS] = {.settings = {.cluster = "c",
                                      .generation = 3,
                                      .lease_ns = 10,
                                      .stop_ns = 1,
                                      .deadline_ns = 8,
                                      .renew_ns = 2,
                                      .drift_ppm = 7}},
    [RECORD_MANAGER] = {.manager = {.host = "a", .instance = "i"}},
    [RECORD_HOST] = {.host = {.address = "10.0.0.1:7001",
                              .version = "0.1.0",
                              .cpus = 4,
                              .memory = UINT64_C(1) << 40,
                              .draining = true,
                              .facts = "{\"labels\":{\"rack\":\"1\"},\"pools\":[]}"}},
    [RECORD_LIFE] = {.life = {.incarnation = 5,
                              .identity = "x",
                              .boot_id = "b",
                              .fenced = true,
                              .declared_dead = true,
                              .unreported = true}},
    [RECORD_RENEWAL] = {.renewal = {.incarnation = 5, .count = UINT32_MAX + UINT64_C(10)}},
    [RECORD_MACHINE] = {.machine = {.name = "web",
                                    .wish = WISH_RUNNING,
                                    .cpus = 2,
                                    .restart = RESTART_NEVER,
                                    .no_ha = true,
                                    .memory = 1 << 30,
                                    .wish_number = 9,
                                    .host = "a",
                                    .move_to = "b",
                                    .move_asked = 77,
                                    .cancel = "c",
                                    .description = "{\"kernel\":\"/k\"}",
                                    .placement = "{\"labels\":[\"web\"]}"}},
    [RECORD_OWNER] = {.owner = {.stage = OWNER_STARTED,
                                .host = "a",
                                .incarnation = 5,
                                .epoch = 12,
                                .kept_epoch = 11,
                                .unbounded = true,
                                .left = {.count = 2, .hosts = {{"c", 3}, {"d", 1}}},
                                .migration = {.stage = MIGRATION_SWITCHING,
                                              .id = "m",
                                              .target = "b",
                                              .target_incarnation = 2,
                                              .source = "a",
                                              .source_incarnation = 5,
                                              .address = "tcp://10.0.0.2:1",
                                              .token = "t",
                                              .tries = 3}}},
    [RECORD_STATE] = {.state = {.state = "running",
                                .host = "a",
                                .reason = "\"quoted\"",
                                .since_ms = 1,
                                .restarts = 2}},
    [RECORD_NAME] = {.uuid = {.uuid = "u"}},
    [RECORD_TOMBSTONE] = {.tombstone = {.epoch = 12,
                                        .name = "web",
                                        .left = {.count = 1, .hosts = {{"a", 5}}},
                                        .reason = "host 'b' was declared dead"}},
    [RECORD_REQUEST] = {.uuid = {.uuid = "u"}},
};

static const char *text_of(enum record_kind kind, const union record_value *value)
{
    return kind == RECORD_MACHINE ? value->machine.placement
           : kind == RECORD_HOST  ? value->host.facts
                                  : "";
}

START_TEST(test_value_round_trip)
{
    enum record_kind kind = (enum record_kind)_i;
    union record_value first, copy;
    struct error err = {0};
    char *text = record_encode(kind, &samples[kind]);
    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(record_decode(kind, bytes_of(text), &first, &err), 0);
    char *again = record_encode(kind, &first);
    ck_assert_str_eq(text, again);
    ck_assert_str_eq(text_of(kind, &first), text_of(kind, &samples[kind]));
    ck_assert_int_eq(record_copy(kind, &first, &copy), 0);
    record_free(kind, &first);
    ck_assert_str_eq(text_of(kind, &copy), text_of(kind, &samples[kind]));
    record_free(kind, &copy);
    free(text);
    free(again);
}
END_TEST

START_TEST(test_value_every_field_is_looked_at)
{
    enum record_kind kind = (enum record_kind)_i;
    union record_value value;
    char *text = record_encode(kind, &samples[kind]);
    // Cut anywhere it is no JSON; a field under another name is missing or unknown, never a crash.
    for (size_t length = 0; length < strlen(text); length++)
        ck_assert_int_ne(
            record_decode(kind, (struct store_bytes){(const uint8_t *)text, length}, &value, NULL),
            0);
    for (size_t i = 0; text[i]; i++) {
        char kept = text[i];
        text[i] = '7';
        if (record_decode(kind, bytes_of(text), &value, NULL) == 0)
            record_free(kind, &value);
        text[i] = kept;
    }
    free(text);
}
END_TEST

static const struct {
    enum record_kind kind;
    const char *text, *why;
} bad_values[] = {
    {RECORD_LIFE, "[]", "not a JSON object"},
    {RECORD_LIFE, "{\"incarnation\":1,\"boot_id\":\"b\",\"identity\":\"x\",\"fenced\":false}",
     "its form"},
    {RECORD_LIFE,
     "{\"v\":2,\"incarnation\":1,\"boot_id\":\"b\",\"identity\":\"x\",\"fenced\":false}",
     "its form"},
    {RECORD_LIFE,
     "{\"v\":1,\"incarnation\":-1,\"boot_id\":\"b\",\"identity\":\"x\",\"fenced\":false}",
     "'incarnation'"},
    {RECORD_LIFE, "{\"v\":1,\"incarnation\":1,\"boot_id\":\"b\",\"identity\":\"x\",\"fenced\":1}",
     "'fenced'"},
    {RECORD_LIFE,
     "{\"v\":1,\"incarnation\":1,\"boot_id\":\"0123456789012345678901234567890123456\","
     "\"identity\":\"x\",\"fenced\":false}",
     "'boot_id'"},
    {RECORD_OWNER, "{\"v\":1,\"stage\":\"mine\",\"host\":\"a\",\"incarnation\":1,\"epoch\":1}",
     "'stage'"},
    {RECORD_OWNER, "{\"v\":1,\"v\":1}", "not a JSON object"},
    {RECORD_TOMBSTONE, "{\"v\":1,\"epoch\":1,\"name\":\"m\",\"left\":{}}", "'left'"},
    {RECORD_TOMBSTONE, "{\"v\":1,\"epoch\":1,\"name\":\"m\",\"left\":[{\"host\":\"a\"}]}",
     "'incarnation'"},
    {RECORD_TOMBSTONE, "{\"v\":1,\"epoch\":1,\"name\":\"m\",\"left\":[{},{},{},{},{},{},{},{},{}]}",
     "'left'"},
};

START_TEST(test_value_refused)
{
    union record_value value;
    struct error err = {0};
    ck_assert_int_ne(
        record_decode(bad_values[_i].kind, bytes_of(bad_values[_i].text), &value, &err), 0);
    ck_assert_msg(strstr(err.message, bad_values[_i].why), "%s", err.message);
}
END_TEST

START_TEST(test_unknown_fields_are_left_alone)
{
    union record_value value;
    ck_assert_int_eq(
        record_decode(RECORD_NAME, bytes_of("{\"v\":1,\"uuid\":\"u\",\"new\":[1]}"), &value, NULL),
        0);
    ck_assert_str_eq(value.uuid.uuid, "u");
}
END_TEST

// A version that knows nothing of machines without a deadline must not read them.
START_TEST(test_form_of_what_has_no_deadline)
{
    union record_value value = {.owner = {.stage = OWNER_STARTED}};
    char *text = record_encode(RECORD_OWNER, &value);
    ck_assert_ptr_nonnull(strstr(text, "\"v\":1"));
    free(text);
    value.owner.unbounded = true;
    text = record_encode(RECORD_OWNER, &value);
    ck_assert_ptr_nonnull(strstr(text, "\"v\":2"));
    free(text);
    // One of before has a deadline.
    ck_assert_int_eq(record_decode(RECORD_OWNER,
                                   bytes_of("{\"v\":1,\"stage\":\"started\",\"host\":\"a\","
                                            "\"incarnation\":1,\"epoch\":1}"),
                                   &value, NULL),
                     0);
    ck_assert(!value.owner.unbounded);
}
END_TEST

START_TEST(test_keys)
{
    char text[RECORD_KEY_SIZE];
    struct record_key key, back;
    for (int kind = 0; kind < RECORD_KINDS; kind++) {
        bool one = kind == RECORD_SETTINGS || kind == RECORD_MANAGER;
        key = record_key_of((enum record_kind)kind, one ? "" : "web-1");
        record_key_format(&key, text);
        ck_assert_int_eq(record_key_parse(bytes_of(text), &back), 0);
        ck_assert_int_eq(back.kind, kind);
        ck_assert_str_eq(back.name, key.name);
    }
    const char *bad[] = {"",
                         "ferry/",
                         "ferry/hosts/",
                         "ferry/hosts/a/b",
                         "ferry/managerx",
                         "other",
                         "ferry/hosts/0123456789012345678901234567890123456789012345678901234567890"
                         "12345"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        ck_assert_int_ne(record_key_parse(bytes_of(bad[i]), &back), 0);
}
END_TEST

START_TEST(test_view)
{
    struct record_view view;
    struct change change;
    char name[16];
    record_view_init(&view);
    for (int i = 40; i >= 0; i--) {
        change_clear(&change);
        snprintf(name, sizeof(name), "h%02d", i);
        change_put(&change, RECORD_LIFE, name)->life.incarnation = (uint64_t)i;
        snprintf(name, sizeof(name), "u%02d", i);
        change_put(&change, RECORD_MACHINE, name)->machine.description = "{}";
        ck_assert_int_eq(record_view_apply(&view, &change, 100 - (uint64_t)i), 0);
    }
    ck_assert_uint_eq(view.host_count, 41);
    ck_assert_uint_eq(view.revision, 100);
    for (int i = 0; i <= 40; i++) {
        snprintf(name, sizeof(name), "h%02d", i);
        ck_assert_str_eq(view.hosts[i].name, name);
        ck_assert_uint_eq(record_view_host(&view, name)->life.value.life.incarnation, i);
    }
    ck_assert_ptr_null(record_view_host(&view, "h41"));
    ck_assert_str_eq(record_view_machine(&view, "u07")->machine.value.machine.description, "{}");
    change_clear(&change);
    change_remove(&change, RECORD_MACHINE, "u07");
    ck_assert_int_eq(record_view_apply(&view, &change, 101), 0);
    ck_assert_uint_eq(record_view_machine(&view, "u07")->machine.mod, 0);
    // An entry goes with the last of its records.
    struct record_key key = record_key_of(RECORD_MACHINE, "u08");
    change_clear(&change);
    change_put(&change, RECORD_STATE, "u08");
    ck_assert_int_eq(record_view_apply(&view, &change, 102), 0);
    record_view_remove(&view, &key);
    ck_assert_uint_eq(record_view_machine(&view, "u08")->machine.mod, 0);
    key.kind = RECORD_STATE;
    record_view_remove(&view, &key);
    ck_assert_ptr_null(record_view_machine(&view, "u08"));
    record_view_remove(&view, &key); // what isn't there
    ck_assert_ptr_null(record_view_machine(&view, "u08"));
    key = record_key_of(RECORD_LIFE, "h00");
    record_view_remove(&view, &key);
    ck_assert_ptr_null(record_view_host(&view, "h00"));
    ck_assert_uint_eq(view.host_count, 40);
    ck_assert_str_eq(view.hosts[0].name, "h01");
    change_clear(&change);
    change_put(&change, RECORD_LIFE, "h00");
    ck_assert_int_eq(record_view_apply(&view, &change, 103), 0);
    // Nobody says of an unknown host that it stopped.
    struct owner_record owner = {.stage = OWNER_STARTED, .host = "h41", .incarnation = 1};
    ck_assert(!record_view_owner_is_over(&view, &owner));
    strcpy(owner.host, "h05");
    ck_assert(record_view_owner_is_over(&view, &owner)); // it has had five
    owner.incarnation = 5;
    ck_assert(!record_view_owner_is_over(&view, &owner));
    record_view_free(&view);
}
END_TEST

// What a version of before has written names nobody.
START_TEST(test_tombstone_of_before)
{
    union record_value value;
    ck_assert_int_eq(record_decode(RECORD_TOMBSTONE,
                                   bytes_of("{\"v\":1,\"epoch\":3,\"name\":\"web\"}"), &value,
                                   NULL),
                     0);
    ck_assert_uint_eq(value.tombstone.left.count, 0);
    ck_assert_uint_eq(value.tombstone.epoch, 3);
}
END_TEST

START_TEST(test_left_hosts)
{
    struct record_view view;
    struct change change;
    struct left_hosts left = {0};
    char name[4] = "h0";
    record_view_init(&view);
    change_clear(&change);
    for (int i = 0; i < 3; i++, name[1]++) {
        struct life_record *life = &change_put(&change, RECORD_LIFE, name)->life;
        life->incarnation = 5;
        life->fenced = i != 1;
        life->declared_dead = i == 2;
    }
    ck_assert_int_eq(record_view_apply(&view, &change, 1), 0);
    const struct owner_record owner = {
        .stage = OWNER_STARTED,
        .host = "h0",
        .incarnation = 5,
        .left = {.count = 1, .hosts = {{"h1", 4}}},
        .migration = {.stage = MIGRATION_DONE, .source = "h2", .source_incarnation = 5}};
    left_hosts_add_owner(&view, &left, &owner);
    ck_assert_uint_eq(left.count, 3);
    ck_assert(left_hosts_has(&left, "h1", 4) && left_hosts_has(&left, "h1", 9));
    ck_assert(!left_hosts_has(&left, "h1", 3) && !left_hosts_has(&left, "h3", 9));
    left_hosts_add(&view, &left, "h1", 3); // the later one stays
    left_hosts_drop(&left, "h1", 3);
    ck_assert_uint_eq(left.count, 3);
    // Declared dead, and another host of that name.
    left_hosts_add(&view, &left, "h1", 6);
    left_hosts_drop_excused(&view, &left);
    ck_assert_uint_eq(left.count, 1);
    ck_assert(left_hosts_has(&left, "h0", 5));
    // Too many: h1, which isn't lost, makes room.
    left_hosts_add(&view, &left, "h1", 5);
    for (int i = 0; i < LEFT_HOSTS - 1; i++, name[1]++) {
        change_clear(&change);
        change_put(&change, RECORD_LIFE, name)->life.fenced = true;
        ck_assert_int_eq(record_view_apply(&view, &change, 2), 0);
        left_hosts_add(&view, &left, name, 1);
    }
    ck_assert_uint_eq(left.count, LEFT_HOSTS);
    ck_assert(left_hosts_has(&left, "h0", 5) && !left_hosts_has(&left, "h1", 9));
    left_hosts_add(&view, &left, "hx", 1); // and of those that are lost the first
    ck_assert(!left_hosts_has(&left, "h0", 5) && left_hosts_has(&left, "hx", 1));
    record_view_free(&view);
}
END_TEST

START_TEST(test_settings)
{
    struct settings_record s;
    struct error err = {0};
    settings_default(&s);
    ck_assert_int_eq(settings_check(&s, 2 * NSEC_PER_SEC, &err), 0);
    // 8.97 s: 8.979 + 1 < 9.990; 8.99 s: 8.999 + 1 isn't.
    s.deadline_ns = UINT64_C(8970000000);
    ck_assert_int_eq(settings_check(&s, 2 * NSEC_PER_SEC, &err), 0);
    s.deadline_ns = UINT64_C(8990000000);
    ck_assert_int_ne(settings_check(&s, 2 * NSEC_PER_SEC, &err), 0);
    settings_default(&s);
    ck_assert_int_ne(settings_check(&s, UINT64_C(2600000000), &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "election"));
    s.renew_ns = 5 * NSEC_PER_SEC;
    ck_assert_int_ne(settings_check(&s, NSEC_PER_SEC, &err), 0);
    settings_default(&s);
    s.lease_ns = UINT64_MAX;
    ck_assert_int_ne(settings_check(&s, NSEC_PER_SEC, &err), 0);
}
END_TEST

START_TEST(test_renewal)
{
    struct renewal renewal;
    struct change change;
    struct settings_record settings;
    struct life_record life = {.incarnation = 4};
    settings_default(&settings);
    renewal_init(&renewal, "a", &life, 77, &settings);
    ck_assert_uint_eq(renewal.deadline, 0);
    renewal_attempt(&renewal, 1000, &change);
    ck_assert_uint_eq(change.compare_count, 1);
    ck_assert_int_eq(change.compares[0].key.kind, RECORD_LIFE);
    ck_assert_uint_eq(change.compares[0].mod, 77);
    ck_assert_uint_eq(change.puts[0].value.renewal.incarnation, 4);
    renewal_outcome(&renewal, CHANGE_UNKNOWN, 2000);
    ck_assert_uint_eq(renewal.deadline, 0);
    renewal_attempt(&renewal, 3000, &change);
    renewal_outcome(&renewal, CHANGE_COMMITTED, 9000);
    ck_assert_uint_eq(renewal.deadline, 3000 + settings.deadline_ns);
    renewal_attempt(&renewal, 10000, &change);
    renewal_outcome(&renewal, CHANGE_REFUSED, 11000);
    ck_assert(renewal.over);
    ck_assert_uint_eq(renewal.deadline, 3000 + settings.deadline_ns);
}
END_TEST

START_TEST(test_register)
{
    struct record life = {0};
    struct change change;
    struct error err = {0};
    ck_assert_int_eq(renewal_register(&life, "a", "id", "boot1", &change, &err), 1);
    ck_assert_uint_eq(change.compares[0].mod, 0);
    ck_assert_uint_eq(change.puts[0].value.life.incarnation, 1);
    life.value.life = change.puts[0].value.life;
    life.mod = 5;
    ck_assert_int_eq(renewal_register(&life, "a", "id", "boot1", &change, &err), 0);
    ck_assert_int_eq(renewal_register(&life, "a", "id", "boot2", &change, &err), 1);
    ck_assert_uint_eq(change.compares[0].mod, 5);
    ck_assert_uint_eq(change.puts[0].value.life.incarnation, 2);
    ck_assert_int_lt(renewal_register(&life, "a", "other", "boot1", &change, &err), 0);
    life.value.life.fenced = true;
    ck_assert_int_eq(renewal_register(&life, "a", "id", "boot1", &change, &err), 1);
    ck_assert_uint_eq(change.puts[0].value.life.incarnation, 2);
    ck_assert(!change.puts[0].value.life.fenced);
}
END_TEST

static bool place_nowhere(void *opaque, const struct record_view *view,
                          const struct machine_entry *machine, char host[NAME_LIMIT + 1],
                          char reason[RECORD_TEXT_SIZE])
{
    return false;
}

static const char *some_id(void *opaque)
{
    return "id";
}

static void renew_in(struct record_view *view, uint64_t revision)
{
    struct change change;
    change_clear(&change);
    change_put(&change, RECORD_RENEWAL, "a")->renewal.count = revision;
    ck_assert_int_eq(record_view_apply(view, &change, revision), 0);
}

static unsigned changes_at(struct manager *manager, struct record_view *view, uint64_t now)
{
    static struct manager_changes changes;
    ck_assert_int_eq(manager_observe(manager, view, now), 0);
    manager_step(manager, view, now, some_id, NULL, &changes);
    if (changes.count)
        ck_assert(changes.changes[0].puts[0].value.life.fenced);
    return changes.count;
}

// A host is fenced when this manager has looked, without a gap, at the same renewal for L.
START_TEST(test_manager_patience)
{
    struct manager manager;
    struct record_view view;
    struct change change;
    const uint64_t tick = NSEC_PER_SEC / 2;
    uint64_t now = 1000 * NSEC_PER_SEC, since;
    record_view_init(&view);
    manager_init(&manager, place_nowhere, NULL);
    change_clear(&change);
    settings_default(&change_put(&change, RECORD_SETTINGS, "")->settings);
    change_put(&change, RECORD_MANAGER, "");
    change_put(&change, RECORD_LIFE, "a")->life.incarnation = 1;
    ck_assert_int_eq(record_view_apply(&view, &change, 1), 0);
    for (uint64_t i = 2; i < 60; i++, now += tick) {
        renew_in(&view, i);
        ck_assert_uint_eq(changes_at(&manager, &view, now), 0);
    }
    now -= tick;
    for (since = now; now - since < 10 * NSEC_PER_SEC - tick;) {
        now += tick;
        ck_assert_uint_eq(changes_at(&manager, &view, now), now - since == 10 * NSEC_PER_SEC);
    }
    // It saw nothing for longer than a host may take for a renewal: all anew.
    now += 20 * NSEC_PER_SEC;
    ck_assert_uint_eq(changes_at(&manager, &view, now), 0);
    for (since = now; now - since < 9 * NSEC_PER_SEC;) {
        now += tick;
        ck_assert_uint_eq(changes_at(&manager, &view, now), 0);
    }
    now += tick;
    ck_assert_uint_eq(changes_at(&manager, &view, now), 0);
    now += tick;
    ck_assert_uint_eq(changes_at(&manager, &view, now), 1);
    manager_free(&manager);
    record_view_free(&view);
}
END_TEST

// A view with host "a" and machine "u" on it, without a deadline.
static void view_of_unbounded(struct record_view *view, bool fenced)
{
    struct change change;
    record_view_init(view);
    change_clear(&change);
    settings_default(&change_put(&change, RECORD_SETTINGS, "")->settings);
    change_put(&change, RECORD_MANAGER, "");
    struct life_record *life = &change_put(&change, RECORD_LIFE, "a")->life;
    *life = (struct life_record){.incarnation = 3, .fenced = fenced};
    struct machine_record *machine = &change_put(&change, RECORD_MACHINE, "u")->machine;
    *machine = (struct machine_record){.name = "n", .wish = WISH_RUNNING, .no_ha = true};
    struct owner_record *owner = &change_put(&change, RECORD_OWNER, "u")->owner;
    *owner = (struct owner_record){
        .stage = OWNER_STARTED, .host = "a", .incarnation = 3, .epoch = 7, .unbounded = true};
    ck_assert_int_eq(record_view_apply(view, &change, 1), 0);
}

static int declare_at(const struct record_view *view, uint64_t incarnation, uint64_t epoch,
                      struct change *change)
{
    struct error err = {0};
    struct declaration seen = {"a", incarnation, epoch};
    int r = declare_machine_dead(view, record_view_machine(view, "u"), &seen, change, &err);
    ck_assert_int_eq(r != 0, err.message[0] != 0);
    return r;
}

START_TEST(test_declare_machine)
{
    struct record_view view;
    struct change change;
    view_of_unbounded(&view, false);
    ck_assert_int_eq(declare_at(&view, 3, 7, &change), -EBUSY); // its host is alive
    record_view_free(&view);
    view_of_unbounded(&view, true);
    const struct owner_record *owner = &record_view_machine(&view, "u")->owner.value.owner;
    ck_assert(record_view_owner_is_over(&view, owner));
    ck_assert(!record_view_owner_is_gone(&view, owner));
    ck_assert_int_eq(declare_at(&view, 2, 7, &change), -ESTALE);
    ck_assert_int_eq(declare_at(&view, 3, 6, &change), -ESTALE);
    ck_assert_int_eq(declare_at(&view, 3, 7, &change), 0);
    ck_assert_uint_eq(change.compare_count, 2);
    ck_assert_int_eq(record_view_apply(&view, &change, 2), 0);
    owner = &record_view_machine(&view, "u")->owner.value.owner;
    ck_assert_int_eq(owner->stage, OWNER_NONE);
    ck_assert_uint_eq(owner->epoch, 8);
    ck_assert_int_eq(declare_at(&view, 3, 8, &change), -EBUSY); // nobody's
    record_view_free(&view);
}
END_TEST

START_TEST(test_declare_host)
{
    struct record_view view;
    struct change change;
    struct error err = {0};
    struct declaration seen = {.host = "a", .incarnation = 2}, other = {.host = "b"};
    view_of_unbounded(&view, false);
    ck_assert_int_eq(declare_host_dead(&view, &seen, &change, &err), -EBUSY);
    record_view_free(&view);
    view_of_unbounded(&view, true);
    ck_assert_int_eq(declare_host_dead(&view, &other, &change, &err), -ENOENT);
    ck_assert_int_eq(declare_host_dead(&view, &seen, &change, &err), -ESTALE);
    seen.incarnation = 3;
    ck_assert_int_eq(declare_host_dead(&view, &seen, &change, &err), 0);
    ck_assert_int_eq(record_view_apply(&view, &change, 2), 0);
    ck_assert_int_eq(declare_host_dead(&view, &seen, &change, &err), 1);
    const struct owner_record *owner = &record_view_machine(&view, "u")->owner.value.owner;
    ck_assert(record_view_owner_is_gone(&view, owner));
    record_view_free(&view);
}
END_TEST

// A fence gives the manager no right to such a machine; it says so, once.
START_TEST(test_manager_leaves_unbounded)
{
    static struct manager_changes changes;
    struct manager manager;
    struct record_view view;
    view_of_unbounded(&view, true);
    manager_init(&manager, place_nowhere, NULL);
    manager_step(&manager, &view, NSEC_PER_SEC, some_id, NULL, &changes);
    ck_assert_uint_eq(changes.count, 1);
    ck_assert_int_eq(changes.changes[0].puts[0].key.kind, RECORD_STATE);
    ck_assert_str_eq(changes.changes[0].puts[0].value.state.state, "lost");
    ck_assert_int_eq(record_view_apply(&view, &changes.changes[0], 2), 0);
    manager_step(&manager, &view, NSEC_PER_SEC, some_id, NULL, &changes);
    ck_assert_uint_eq(changes.count, 0);
    manager_free(&manager);
    record_view_free(&view);
}
END_TEST

// Moves that were asked for begin in the order of their requests; those of one time, or of a
// version that didn't note it, by UUID.
START_TEST(test_manager_moves_the_oldest_first)
{
    static struct manager_changes changes;
    static const uint64_t asked[] = {30, 10, 20, 10, 0};
    static const char *const order[] = {"u4", "u1", "u3", "u2", "u0"};
    struct manager manager;
    struct record_view view;
    struct change change;
    char name[16];
    record_view_init(&view);
    change_clear(&change);
    settings_default(&change_put(&change, RECORD_SETTINGS, "")->settings);
    change_put(&change, RECORD_MANAGER, "");
    change_put(&change, RECORD_LIFE, "a")->life.incarnation = 1;
    change_put(&change, RECORD_LIFE, "b")->life.incarnation = 1;
    ck_assert_int_eq(record_view_apply(&view, &change, 1), 0);
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof(name), "u%d", i);
        change_clear(&change);
        struct machine_record *machine = &change_put(&change, RECORD_MACHINE, name)->machine;
        *machine =
            (struct machine_record){.wish = WISH_RUNNING, .move_to = "b", .move_asked = asked[i]};
        struct owner_record *owner = &change_put(&change, RECORD_OWNER, name)->owner;
        *owner = (struct owner_record){.stage = OWNER_STARTED, .host = "a", .incarnation = 1};
        ck_assert_int_eq(record_view_apply(&view, &change, 2), 0);
    }
    manager_init(&manager, place_nowhere, NULL);
    manager_step(&manager, &view, NSEC_PER_SEC, some_id, NULL, &changes);
    ck_assert_uint_eq(changes.count, MOVES_OF_HOST);
    for (unsigned i = 0; i < MOVES_OF_HOST; i++)
        ck_assert_str_eq(changes.changes[i].puts[0].key.name, order[i]);
    for (unsigned i = 0; i < 5; i++)
        ck_assert_uint_eq(moves_place(&manager.moves, &view, record_view_machine(&view, order[i])),
                          i + 1);
    manager_free(&manager);
    record_view_free(&view);
}
END_TEST

static const struct change *step_of(struct manager *manager, struct record_view *view, uint64_t now)
{
    static struct manager_changes changes;
    manager_step(manager, view, now, some_id, NULL, &changes);
    ck_assert_uint_le(changes.count, 1);
    return changes.count ? &changes.changes[0] : NULL;
}

static bool place_at_home(void *opaque, const struct record_view *view,
                          const struct machine_entry *machine, char host[NAME_LIMIT + 1],
                          char reason[RECORD_TEXT_SIZE])
{
    strcpy(host, "a");
    return true;
}

// After a restore: "a" has reported, "b" hasn't; "p" may run on "a" only, "q" anywhere.
START_TEST(test_manager_after_restore)
{
    struct manager manager;
    struct record_view view;
    struct change change;
    struct error err = {0};
    struct declaration seen = {.host = "b", .incarnation = 2};
    const uint64_t lease = 10 * NSEC_PER_SEC, begin = 5;
    record_view_init(&view);
    manager_init(&manager, place_at_home, NULL);
    change_clear(&change);
    settings_default(&change_put(&change, RECORD_SETTINGS, "")->settings);
    change.puts[0].value.settings.held = true;
    change_put(&change, RECORD_MANAGER, "");
    change_put(&change, RECORD_LIFE, "a")->life.incarnation = 1;
    change_put(&change, RECORD_LIFE, "b")->life = (struct life_record){
        .incarnation = 2, .identity = "old", .boot_id = "x", .fenced = true, .unreported = true};
    change_put(&change, RECORD_MACHINE, "p")->machine =
        (struct machine_record){.wish = WISH_RUNNING, .host = "a"};
    change_put(&change, RECORD_OWNER, "p");
    ck_assert_int_eq(record_view_apply(&view, &change, 1), 0);
    change_clear(&change);
    change_put(&change, RECORD_MACHINE, "q")->machine.wish = WISH_RUNNING;
    change_put(&change, RECORD_OWNER, "q");
    ck_assert_int_eq(record_view_apply(&view, &change, 2), 0);
    ck_assert_ptr_null(step_of(&manager, &view, begin));
    ck_assert_ptr_null(step_of(&manager, &view, begin + lease - 1));
    const struct change *made = step_of(&manager, &view, begin + lease);
    ck_assert_ptr_nonnull(made);
    ck_assert_int_eq(made->puts[0].key.kind, RECORD_OWNER);
    ck_assert_str_eq(made->puts[0].key.name, "p");
    ck_assert_int_eq(record_view_apply(&view, made, 3), 0);
    ck_assert_ptr_null(step_of(&manager, &view, begin + 2 * lease));
    // A person says that "b" is gone; then the others may start as well.
    ck_assert_int_eq(declare_host_dead(&view, &seen, &change, &err), 0);
    ck_assert_int_eq(record_view_apply(&view, &change, 4), 0);
    made = step_of(&manager, &view, begin + 2 * lease);
    ck_assert_ptr_nonnull(made);
    ck_assert_int_eq(made->puts[0].key.kind, RECORD_SETTINGS);
    ck_assert(!made->puts[0].value.settings.held);
    ck_assert_int_eq(record_view_apply(&view, made, 5), 0);
    made = step_of(&manager, &view, begin + 2 * lease);
    ck_assert_ptr_nonnull(made);
    ck_assert_str_eq(made->puts[0].key.name, "q");
    // It may come back all the same, with another identity.
    const struct record *life = &record_view_host(&view, "b")->life;
    ck_assert_int_eq(renewal_register(life, "b", "new", "y", &change, &err), 1);
    ck_assert_uint_eq(change.puts[0].value.life.incarnation, 3);
    ck_assert(!change.puts[0].value.life.unreported && !change.puts[0].value.life.declared_dead);
    manager_free(&manager);
    record_view_free(&view);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("records");
    TCase *tc = tcase_create("records");
    tcase_add_loop_test(tc, test_value_round_trip, 0, RECORD_KINDS);
    tcase_add_loop_test(tc, test_value_every_field_is_looked_at, 0, RECORD_KINDS);
    tcase_add_loop_test(tc, test_value_refused, 0, sizeof(bad_values) / sizeof(bad_values[0]));
    tcase_add_test(tc, test_unknown_fields_are_left_alone);
    tcase_add_test(tc, test_form_of_what_has_no_deadline);
    tcase_add_test(tc, test_keys);
    tcase_add_test(tc, test_view);
    tcase_add_test(tc, test_tombstone_of_before);
    tcase_add_test(tc, test_left_hosts);
    tcase_add_test(tc, test_settings);
    tcase_add_test(tc, test_renewal);
    tcase_add_test(tc, test_register);
    tcase_add_test(tc, test_manager_patience);
    tcase_add_test(tc, test_declare_machine);
    tcase_add_test(tc, test_declare_host);
    tcase_add_test(tc, test_manager_leaves_unbounded);
    tcase_add_test(tc, test_manager_moves_the_oldest_first);
    tcase_add_test(tc, test_manager_after_restore);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
