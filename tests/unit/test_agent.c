// What an agent does about one machine (cluster/agent/agent.h), where the time that a deadline
// leaves decides. The rules as a whole are the simulator's: tests/never_twice.
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/runtime_dir.h"
#include "cluster/agent/agent.h"
#include "cluster/agent/local.h"
#include "tests/unit/run_suite.h"

#define UUID     "6a0e4d6e-3a51-4a5a-9a7f-2b7c3c1d5e01"
#define DEADLINE (1500 * NSEC_PER_MSEC)

// One machine, assigned to this host and wanted.
struct fixture {
    struct record_view view;
    struct agent_self self;
    struct agent_machine machine;
    struct local_view local;
    struct change change;
    uint64_t now;
};

static void add(struct fixture *f, struct record *record)
{
    record->mod = ++f->view.revision;
    ck_assert_int_eq(record_view_add(&f->view, record), 0);
}

static void setup(struct fixture *f)
{
    *f = (struct fixture){.now = 100 * NSEC_PER_SEC,
                          .self = {.host = "h1", .incarnation = 3, .life_mod = 7}};
    record_view_init(&f->view);
    struct record settings = {.key = record_key_of(RECORD_SETTINGS, "")};
    settings_default(&settings.value.settings);
    settings.value.settings.deadline_ns = DEADLINE;
    add(f, &settings);
    struct record machine = {.key = record_key_of(RECORD_MACHINE, UUID)};
    machine.value.machine.wish = WISH_RUNNING;
    machine.value.machine.restart = RESTART_ALWAYS;
    add(f, &machine);
    struct record owner = {.key = record_key_of(RECORD_OWNER, UUID)};
    owner.value.owner =
        (struct owner_record){.stage = OWNER_ASSIGNED, .host = "h1", .incarnation = 3, .epoch = 5};
    add(f, &owner);
}

static enum agent_action step(struct fixture *f, uint64_t left)
{
    f->self.deadline = f->now + left;
    return agent_machine_step(&f->self, &f->view, record_view_machine(&f->view, UUID), &f->local,
                              &f->machine, f->now, &f->change);
}

static void end_commit(struct fixture *f, enum change_outcome outcome)
{
    agent_machine_outcome(&f->machine, outcome);
    if (outcome == CHANGE_COMMITTED)
        ck_assert_int_eq(record_view_apply(&f->view, &f->change, f->view.revision + 1), 0);
}

START_TEST(test_a_start_has_time_to_come_up)
{
    struct fixture f;
    setup(&f);
    ck_assert_int_eq(step(&f, DEADLINE / 2 - 1), AGENT_WAIT);
    ck_assert_int_eq(step(&f, DEADLINE / 2), AGENT_COMMIT);
    ck_assert_uint_eq(f.change.puts[0].value.owner.epoch, 6);
    end_commit(&f, CHANGE_COMMITTED);
    // The commit took long: the process waits for a renewal, under the same epoch.
    ck_assert_int_eq(step(&f, DEADLINE / 2 - 1), AGENT_WAIT);
    ck_assert_int_eq(step(&f, DEADLINE), AGENT_SPAWN);
    ck_assert_uint_eq(f.machine.to_start, 6);
    ck_assert_uint_eq(f.machine.failures, 0);
    record_view_free(&f.view);
}
END_TEST

START_TEST(test_a_start_of_unknown_outcome_starts_nothing)
{
    struct fixture f;
    setup(&f);
    ck_assert_int_eq(step(&f, DEADLINE), AGENT_COMMIT);
    end_commit(&f, CHANGE_UNKNOWN);
    // Even if it was committed: another start may have been meant by it.
    ck_assert_int_eq(record_view_apply(&f.view, &f.change, f.view.revision + 1), 0);
    ck_assert_int_eq(step(&f, DEADLINE), AGENT_COMMIT);
    ck_assert_uint_eq(f.change.puts[0].value.owner.epoch, 7);
    record_view_free(&f.view);
}
END_TEST

START_TEST(test_who_was_fenced_meanwhile_starts_nothing)
{
    struct fixture f;
    setup(&f);
    ck_assert_int_eq(step(&f, DEADLINE), AGENT_COMMIT);
    end_commit(&f, CHANGE_COMMITTED);
    f.self.incarnation++;
    ck_assert_int_eq(step(&f, DEADLINE), AGENT_WAIT);
    f.self.incarnation--;
    f.self.over = true;
    ck_assert_int_eq(step(&f, DEADLINE), AGENT_WAIT);
    record_view_free(&f.view);
}
END_TEST

// A machine is given up only when its process is gone, and that it can't be looked at isn't that.
START_TEST(test_what_cant_be_looked_at_is_not_gone)
{
    char root[] = "/tmp/ferry-unit-XXXXXX", command[64];
    struct error err = {0};
    struct local_machines machines;
    struct runtime_machine held;
    struct local_look look;
    struct rlimit limit;
    ck_assert_ptr_nonnull(mkdtemp(root));
    ck_assert_int_eq(local_open(&machines, root, "/bin/true", "a-boot", &err), 0);
    local_look(&machines, UUID, &look);
    ck_assert_int_eq(look.view.process, LOCAL_NONE);
    ck_assert_int_eq(runtime_machine_claim(&machines.dir, UUID, &held, &err), 0);
    local_look(&machines, UUID, &look);
    ck_assert_int_eq(look.view.process, LOCAL_STARTING);

    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    int next = dup(0);
    ck_assert_int_ge(next, 0);
    close(next);
    // One after another: what the first files that are opened for it say isn't all.
    for (int more = 0; more < 4; more++) {
        limit.rlim_cur = (rlim_t)(next + more);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        local_look(&machines, UUID, &look);
        ck_assert_int_eq(look.view.process, LOCAL_STARTING);
    }
    limit.rlim_cur = before;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    runtime_machine_release(&machines.dir, &held, true);
    local_look(&machines, UUID, &look);
    ck_assert_int_eq(look.view.process, LOCAL_NONE);
    local_close(&machines);
    snprintf(command, sizeof(command), "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("agent");
    TCase *tcase = tcase_create("agent");
    tcase_add_test(tcase, test_a_start_has_time_to_come_up);
    tcase_add_test(tcase, test_a_start_of_unknown_outcome_starts_nothing);
    tcase_add_test(tcase, test_who_was_fenced_meanwhile_starts_nothing);
    tcase_add_test(tcase, test_what_cant_be_looked_at_is_not_gone);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
