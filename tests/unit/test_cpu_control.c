// Which backend enforces a machine's CPU settings, changes while it runs, and what happens when the
// host refuses. Control groups, KVM and the vCPU threads are fakes that note what they were told;
// the board and the slicer are real.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/run_suite.h"
#include "vmm/cpu_control.h"
#include "vmm/kvm_statistics.h"
#include "vmm/sched/cpu_cgroup.h"
#include "vmm/sched/sched_attributes.h"
#include "vmm/vcpu.h"

// ---- fakes: linked before the library, so that its own aren't taken ----

static struct {
    bool usable[3]; // control groups of version 1 and 2
    int create_rc, apply_rc;
    unsigned refuse_weight; // apply_rc only for this one; 0: for all
    int created, destroyed, applied;
    int version;
    unsigned weight; // of vCPU 0, as last written
    unsigned parks, slicers, polls_stopped;
    uint64_t faults[2];
} fake;

struct cpu_cgroup {
    int version;
};

int cpu_cgroup_usable(int version, struct error *err)
{
    return fake.usable[version] ? 0 : error_set(err, ENOTSUP, "no groups of version %d", version);
}

int cpu_cgroup_create(struct cpu_cgroup **cgroup, int version, unsigned vcpus, struct error *err)
{
    ck_assert_uint_eq(vcpus, 2);
    if (fake.create_rc < 0)
        return error_set_errno(err, -fake.create_rc, "making the control group");
    *cgroup = malloc(sizeof(**cgroup));
    (*cgroup)->version = fake.version = version;
    fake.created++;
    return 0;
}

void cpu_cgroup_destroy(struct cpu_cgroup *cgroup)
{
    fake.destroyed += cgroup != NULL;
    free(cgroup);
}

int cpu_cgroup_apply(struct cpu_cgroup *cgroup, const struct cpu_settings *settings,
                     const pid_t *tids, unsigned count, struct error *err)
{
    ck_assert_ptr_nonnull(cgroup);
    ck_assert_uint_eq(count, 2);
    ck_assert_int_eq(tids[0], (pid_t)syscall(SYS_gettid));
    struct sched_params params;
    cpu_settings_resolve(settings, 0, &params);
    fake.applied++;
    fake.weight = params.weight; // as the first file is written before a later one refuses
    if (fake.apply_rc < 0 && (!fake.refuse_weight || fake.refuse_weight == params.weight))
        return error_set_errno(err, -fake.apply_rc, "setting the control group of vCPU 0");
    return 0;
}

const struct slicer_ops vcpu_slicer_ops = {NULL, NULL, 0};

void vcpus_set_slicer(struct vcpus *vcpus, struct slicer *slicer)
{
    ck_assert_ptr_null(atomic_load(&vcpus->slicer));
    atomic_store(&vcpus->slicer, slicer);
    fake.slicers++;
}

void vcpus_park(struct vcpus *vcpus)
{
    (void)vcpus;
    fake.parks++;
}

uint64_t vcpu_cpu_time_ns(const struct vcpu *v)
{
    return 1000 + v->index;
}

uint64_t vcpu_run_delay_ns(const struct vcpu *v)
{
    return 2000 + v->index;
}

int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *argument)
{
    const struct kvm_enable_cap *cap = argument;
    (void)kvm;
    fake.polls_stopped += request == KVM_ENABLE_CAP && cap->cap == KVM_CAP_HALT_POLL;
    return -EINVAL; // a KVM that can't be told: no failure
}

uint64_t kvm_statistic(int fd, const char *name)
{
    ck_assert_str_eq(name, "pf_taken");
    return fake.faults[fd];
}

// ---- a machine of two vCPUs ----

static struct vcpu vcpu_list[2];
static struct cpu_time cpu_time;
static struct vcpus vcpus;
static struct cpu_control control;
static char board[64];

static void setup(void)
{
    memset(&fake, 0, sizeof(fake));
    memset(vcpu_list, 0, sizeof(vcpu_list));
    cpu_time = (struct cpu_time){.count = 2};
    vcpus = (struct vcpus){.list = vcpu_list, .count = 2, .cpu_time = &cpu_time};
    for (unsigned i = 0; i < 2; i++) {
        vcpu_list[i] = (struct vcpu){.all = &vcpus, .index = i, .stats_fd = (int)i};
        atomic_store(&vcpu_list[i].tid, (pid_t)syscall(SYS_gettid));
    }
    cpu_control_init(&control, &vcpus);
    strcpy(board, "/tmp/ferry-board.XXXXXX");
    close(mkstemp(board));
}

static void teardown(void)
{
    slicer_destroy(atomic_load(&vcpus.slicer)); // as vcpus_destroy() does
    cpu_control_destroy(&control);
    cpu_control_destroy(&control); // once more does nothing
    unlink(board);
    ck_assert_int_eq(fake.created, fake.destroyed);
}

static void say(struct cpu_settings *settings, const char *key, const char *text)
{
    struct error err = {0};
    ck_assert_msg(cpu_settings_parse(settings, key, text, &err) == 0, "%s", err.message);
}

static struct cpu_settings weight(const char *text)
{
    struct cpu_settings settings = {0};
    say(&settings, "weight", text);
    return settings;
}

// As a machine's start does it. The board is opened for ferry's own slicer.
static int begin(const struct cpu_settings *settings, struct error *err)
{
    struct cpu_prepared prepared;
    int rc = cpu_control_prepare(settings, 2, &prepared, err);
    if (rc == 0 && prepared.backend == CPU_BACKEND_OWN)
        prepared.board_fd = open(board, O_RDWR | O_CLOEXEC);
    if (rc == 0)
        rc = cpu_control_set(&control, settings, &prepared, err);
    ck_assert_int_eq(prepared.board_fd, -1);
    ck_assert_ptr_null(prepared.cgroup);
    return rc;
}

static void begins(const struct cpu_settings *settings, enum cpu_backend backend)
{
    struct error err = {0};
    ck_assert_msg(begin(settings, &err) == 0, "%s", err.message);
    ck_assert_int_eq(control.backend, backend);
}

// As `ferry cpu` does it.
static int change(const struct cpu_settings *settings, bool with_board, struct error *err)
{
    struct cpu_prepared prepared = {.backend = CPU_BACKEND_OWN, .board_fd = -1};
    *err = (struct error){0};
    if (with_board)
        prepared.board_fd = open(board, O_RDWR | O_CLOEXEC);
    int fd = prepared.board_fd;
    int rc = cpu_control_set(&control, settings, &prepared, err);
    ck_assert_int_eq(prepared.board_fd, -1);
    if (rc < 0 && fd >= 0)
        ck_assert_int_eq(fcntl(fd, F_GETFD), -1); // closed, whatever came of it
    return rc;
}

static long long number(const char *key)
{
    json_t *object = json_object();
    cpu_control_vcpu_stats(&control, 0, object);
    long long value = json_integer_value(json_object_get(object, key));
    json_decref(object);
    return value;
}

static bool backend_is(const char *name)
{
    json_t *object = cpu_control_stats(&control);
    bool same = strcmp(json_string_value(json_object_get(object, "backend")), name) == 0;
    json_decref(object);
    return same;
}

// ---- which backend ----

static const struct {
    bool v1, v2, asks;
    enum cpu_backend wish, got;
} choices[] = {
    {true, true, false, CPU_BACKEND_AUTO, CPU_BACKEND_NONE},
    {true, true, true, CPU_BACKEND_AUTO, CPU_BACKEND_CGROUP2},
    {true, false, true, CPU_BACKEND_AUTO, CPU_BACKEND_CGROUP1},
    {false, false, true, CPU_BACKEND_AUTO, CPU_BACKEND_OWN},
    {true, true, true, CPU_BACKEND_CGROUP1, CPU_BACKEND_CGROUP1},
    {true, true, false, CPU_BACKEND_CGROUP2, CPU_BACKEND_CGROUP2},
    {true, true, true, CPU_BACKEND_OWN, CPU_BACKEND_OWN},
    {true, true, false, CPU_BACKEND_OWN, CPU_BACKEND_OWN},
    {true, true, true, CPU_BACKEND_SCHED, CPU_BACKEND_SCHED},
    {true, true, false, CPU_BACKEND_NONE, CPU_BACKEND_NONE},
};

START_TEST(the_backend)
{
    struct cpu_settings settings = {.backend = choices[_i].wish};
    bool groups = choices[_i].got == CPU_BACKEND_CGROUP1 || choices[_i].got == CPU_BACKEND_CGROUP2;
    fake.usable[1] = choices[_i].v1;
    fake.usable[2] = choices[_i].v2;
    if (choices[_i].asks)
        say(&settings, "weight", "90"); // a nice value that needs no right
    begins(&settings, choices[_i].got);
    ck_assert(backend_is(cpu_backend_names[choices[_i].got]));
    ck_assert_int_eq(fake.created, groups);
    ck_assert_int_eq(fake.applied, groups);
    ck_assert_uint_eq(fake.slicers, choices[_i].got == CPU_BACKEND_OWN);
    ck_assert_uint_eq(fake.polls_stopped, choices[_i].got == CPU_BACKEND_OWN);
    if (groups)
        ck_assert_int_eq(fake.version, choices[_i].got == CPU_BACKEND_CGROUP2 ? 2 : 1);
    ck_assert_int_eq(number("cpu_ns"), 1000);
    ck_assert_int_eq(number("run_delay_ns"), 2000);
}
END_TEST

// What is refused at the start, and by which sentence.
static const struct {
    enum cpu_backend wish;
    const char *key, *text;
    int create_rc, rc;
    const char *message;
} refused[] = {
    {CPU_BACKEND_CGROUP2, "weight", "50", 0, -ENOTSUP, "no groups of version 2"},
    {CPU_BACKEND_CGROUP1, "weight", "50", 0, -ENOTSUP, "no groups of version 1"},
    {CPU_BACKEND_SCHED, "cap", "50%", 0, -ENOTSUP, "'sched' knows no caps"},
    {CPU_BACKEND_SCHED, "cap", "1=50%", 0, -ENOTSUP, "'sched' knows no caps"},
    {CPU_BACKEND_NONE, "weight", "50", 0, -EINVAL, "'none' doesn't"},
    {CPU_BACKEND_OWN, "weight", "2=50", 0, -EINVAL, "vCPU 2"},
    {CPU_BACKEND_OWN, "affinity", "255", 0, -EINVAL, "none of the CPUs 255"},
    {CPU_BACKEND_OWN, "affinity", "1=255", 0, -EINVAL, "of vCPU 1"},
};

START_TEST(what_is_refused)
{
    struct cpu_settings settings = {.backend = refused[_i].wish};
    struct error err = {0};
    fake.create_rc = refused[_i].create_rc;
    say(&settings, refused[_i].key, refused[_i].text);
    ck_assert_int_eq(begin(&settings, &err), refused[_i].rc);
    ck_assert_msg(strstr(err.message, refused[_i].message) != NULL, "%s", err.message);
    ck_assert_int_eq(control.backend, CPU_BACKEND_NONE);
    ck_assert_uint_eq(fake.slicers, 0);
}
END_TEST

// Groups seemed possible and can't be made: it is said, and not papered over by another backend.
START_TEST(groups_that_cant_be_made)
{
    struct cpu_settings settings = weight("50");
    struct error err = {0};
    fake.usable[2] = true;
    fake.create_rc = -EACCES;
    ck_assert_int_eq(begin(&settings, &err), -EACCES);
    ck_assert(strstr(err.message, "making the control group") != NULL);
}
END_TEST

// A start whose group's files refuse: nothing is left of the groups.
START_TEST(groups_that_refuse_at_the_start)
{
    struct cpu_settings settings = weight("50");
    struct error err = {0};
    fake.usable[1] = true;
    fake.apply_rc = -EACCES;
    ck_assert_int_eq(begin(&settings, &err), -EACCES);
    ck_assert_int_eq(control.backend, CPU_BACKEND_NONE);
    ck_assert_uint_eq(control.settings.machine.weight, 0);
}
END_TEST

// Threads that aren't there yet: what is asked for waits for cpu_control_started().
START_TEST(before_the_threads)
{
    struct cpu_settings settings = weight("50");
    struct error err = {0};
    fake.usable[2] = true;
    atomic_store(&vcpu_list[1].tid, 0);
    begins(&settings, CPU_BACKEND_CGROUP2);
    ck_assert_int_eq(fake.applied, 0);
    atomic_store(&vcpu_list[1].tid, (pid_t)syscall(SYS_gettid));
    ck_assert_int_eq(cpu_control_started(&control, &err), 0);
    ck_assert_int_eq(fake.applied, 1);
    ck_assert_uint_eq(fake.parks, 1);
    fake.apply_rc = -EACCES;
    ck_assert_int_eq(cpu_control_started(&control, &err), -EACCES);
    ck_assert(strstr(err.message, "Permission denied") != NULL);
}
END_TEST

START_TEST(started_without_a_backend)
{
    struct error err = {0};
    ck_assert_int_eq(cpu_control_started(&control, &err), 0);
    ck_assert_uint_eq(fake.parks, 0);
}
END_TEST

// ---- changes ----

START_TEST(changes_of_groups)
{
    struct cpu_settings settings = weight("50");
    struct error err = {0};
    fake.usable[2] = true;
    begins(&settings, CPU_BACKEND_CGROUP2);
    settings = weight("70");
    ck_assert_int_eq(change(&settings, true, &err), 0);
    ck_assert_int_eq(control.backend, CPU_BACKEND_CGROUP2);
    ck_assert_uint_eq(fake.weight, 70);
    ck_assert_uint_eq(fake.slicers, 0); // the board that came along isn't used
    ck_assert_int_eq(number("weight"), 70);
}
END_TEST

// A file refuses in the middle: what was written before it is written back.
START_TEST(changes_that_the_host_refuses)
{
    struct cpu_settings settings = weight("50");
    struct error err = {0};
    fake.usable[1] = true;
    begins(&settings, CPU_BACKEND_CGROUP1);
    fake.apply_rc = -EACCES;
    fake.refuse_weight = 70;
    settings = weight("70");
    ck_assert_int_eq(change(&settings, false, &err), -EACCES);
    ck_assert(strstr(err.message, "control group of vCPU 0") != NULL);
    ck_assert_uint_eq(fake.weight, 50);
    ck_assert_int_eq(number("weight"), 50);
    ck_assert_int_eq(control.backend, CPU_BACKEND_CGROUP1);
    fake.refuse_weight = 0; // and when that is refused as well, it's only said
    ck_assert_int_eq(change(&settings, false, &err), -EACCES);
    ck_assert_int_eq(number("weight"), 50);
    fake.apply_rc = 0;
    ck_assert_int_eq(change(&settings, false, &err), 0);
    ck_assert_uint_eq(fake.weight, 70);
}
END_TEST

START_TEST(another_backend_while_it_runs)
{
    struct cpu_settings settings = weight("50");
    struct error err = {0};
    begins(&settings, CPU_BACKEND_OWN);
    settings.backend = CPU_BACKEND_SCHED;
    ck_assert_int_eq(change(&settings, true, &err), -EBUSY);
    ck_assert(strstr(err.message, "'own'") != NULL);
    settings.backend = CPU_BACKEND_OWN;
    settings.machine.weight = 60;
    ck_assert_int_eq(change(&settings, true, &err), 0);
    ck_assert_int_eq(number("weight"), 60);
    ck_assert_uint_eq(fake.slicers, 1); // the same
}
END_TEST

START_TEST(caps_of_sched_while_it_runs)
{
    struct cpu_settings settings = weight("90");
    struct error err = {0};
    settings.backend = CPU_BACKEND_SCHED;
    int nice = getpriority(PRIO_PROCESS, 0) + sched_attributes_nice(90);
    begins(&settings, CPU_BACKEND_SCHED);
    ck_assert_int_eq(getpriority(PRIO_PROCESS, 0), nice > 19 ? 19 : nice);
    say(&settings, "cap", "0=20%");
    ck_assert_int_eq(change(&settings, false, &err), -ENOTSUP);
    ck_assert(strstr(err.message, "no caps") != NULL);
    ck_assert_uint_eq(control.settings.vcpu[0].cap, 0);
}
END_TEST

// One that asked for nothing is sliced from then on.
START_TEST(a_backend_that_comes_later)
{
    struct cpu_settings settings = {0};
    struct error err = {0};
    begins(&settings, CPU_BACKEND_NONE);
    settings = weight("50");
    ck_assert_int_eq(change(&settings, true, &err), 0);
    ck_assert_int_eq(control.backend, CPU_BACKEND_OWN);
    ck_assert_uint_eq(fake.slicers, 1);
}
END_TEST

// Its board is none: it goes on without one, and says so; with a good one it works.
START_TEST(a_board_that_cant_be_used)
{
    struct cpu_settings settings = {0};
    struct error err = {0};
    begins(&settings, CPU_BACKEND_NONE);
    settings = weight("50");
    ck_assert_int_eq(unlink(board), 0);
    ck_assert_int_eq(mkfifo(board, 0600), 0);
    ck_assert_int_lt(change(&settings, true, &err), 0);
    ck_assert_int_eq(control.backend, CPU_BACKEND_NONE);
    ck_assert(backend_is("none"));
    ck_assert_int_eq(number("weight"), 100);
    ck_assert_int_eq(unlink(board), 0);
    close(open(board, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ck_assert_int_eq(change(&settings, true, &err), 0);
    ck_assert(backend_is("own"));
    ck_assert_int_eq(number("weight"), 50);
}
END_TEST

START_TEST(nonsense_while_it_runs)
{
    struct cpu_settings settings = weight("50"), wrong = weight("60");
    struct error err = {0};
    begins(&settings, CPU_BACKEND_OWN);
    say(&wrong, "weight", "7=60");
    ck_assert_int_eq(change(&wrong, true, &err), -EINVAL);
    wrong = weight("60");
    say(&wrong, "affinity", "254-255");
    ck_assert_int_eq(change(&wrong, true, &err), -EINVAL);
    ck_assert_int_eq(number("weight"), 50);
}
END_TEST

// ---- what a move takes ----

START_TEST(a_move_slows_who_writes)
{
    struct cpu_settings settings = {0};
    begins(&settings, CPU_BACKEND_NONE);
    fake.faults[0] = fake.faults[1] = 5000;
    cpu_control_sample(&control);
    fake.faults[0] += 1000;
    fake.faults[1] += 10;
    ck_assert_uint_eq(cpu_control_writers_share(&control), 1); // no CPU time passed: the least
    cpu_control_throttle(&control, 200);
    ck_assert_uint_eq(fake.slicers, 1); // one for itself, whatever the backend
    ck_assert_uint_eq(control.writers, 1);
    fake.faults[0] += 20; // too few to tell by
    cpu_control_writers_share(&control);
    cpu_control_throttle(&control, 400);
    ck_assert_uint_eq(control.writers, 1);
    fake.faults[1] += 5000; // now the other
    cpu_control_writers_share(&control);
    cpu_control_throttle(&control, 600);
    ck_assert_uint_eq(control.writers, 2);
    json_t *object = cpu_control_stats(&control);
    ck_assert_int_eq(json_integer_value(json_object_get(object, "throttled")), 600);
    json_decref(object);
    cpu_control_throttle(&control, 0);
    ck_assert_uint_eq(control.throttled, 0);
    cpu_control_sample(&control); // of the next move
    ck_assert_uint_eq(control.writers, 0);
    ck_assert(backend_is("none"));
    ck_assert_uint_eq(fake.slicers, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cpu_control");
    TCase *tc = tcase_create("cpu_control");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, the_backend, 0, sizeof(choices) / sizeof(choices[0]));
    tcase_add_loop_test(tc, what_is_refused, 0, sizeof(refused) / sizeof(refused[0]));
    tcase_add_test(tc, groups_that_cant_be_made);
    tcase_add_test(tc, groups_that_refuse_at_the_start);
    tcase_add_test(tc, before_the_threads);
    tcase_add_test(tc, started_without_a_backend);
    tcase_add_test(tc, changes_of_groups);
    tcase_add_test(tc, changes_that_the_host_refuses);
    tcase_add_test(tc, another_backend_while_it_runs);
    tcase_add_test(tc, caps_of_sched_while_it_runs);
    tcase_add_test(tc, a_backend_that_comes_later);
    tcase_add_test(tc, a_board_that_cant_be_used);
    tcase_add_test(tc, nonsense_while_it_runs);
    tcase_add_test(tc, a_move_slows_who_writes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
