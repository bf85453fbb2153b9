// CPU time in a machine's description: option texts, JSON both ways, what holds for a vCPU, and
// what is refused; and the control groups that it becomes, in a directory of plain files.
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/run_suite.h"
#include "vmm/sched/cpu_cgroup.h"
#include "vmm/sched/cpu_settings.h"
#include "vmm/sched/sched_attributes.h"

static const struct {
    const char *key, *text;
    const char *refused; // NULL: it is right
} texts[] = {
    {"weight", "1", NULL},
    {"weight", "10000", NULL},
    {"weight", "3=250", NULL},
    {"weight", "none", NULL},
    {"weight", "0", "a weight from 1 to 10000"},
    {"weight", "10001", "a weight from 1 to 10000"},
    {"weight", "", "a weight"},
    {"weight", "64=1", "not a vCPU's number"},
    {"weight", "x=1", "not a vCPU's number"},
    {"weight", "=1", "not a vCPU's number"},
    {"weight", "0=", "a weight"},
    {"cap", "150%", NULL},
    {"cap", "0.5", NULL},
    {"cap", "1=25%", NULL},
    {"cap", "0%", "a share of a CPU"},
    {"cap", "30000%", "a share of a CPU"},
    {"cap", "much", "a share of a CPU"},
    {"slice", "100us", NULL},
    {"slice", "100ms", NULL},
    {"slice", "99us", "a duration from 100us to 100ms"},
    {"slice", "1s", "a duration"},
    {"slice", "3", "a duration"},
    {"affinity", "0-1,4", NULL},
    {"affinity", "255", NULL},
    {"affinity", "256", "a list of host CPUs"},
    {"affinity", "3-1", "a list of host CPUs"},
    {"affinity", "1,", "a list of host CPUs"},
    {"affinity", "-1", "a list of host CPUs"},
    {"affinity", "0x1", "a list of host CPUs"},
};

START_TEST(option_texts)
{
    struct cpu_settings settings = {0};
    struct error err = {0};
    int rc = cpu_settings_parse(&settings, texts[_i].key, texts[_i].text, &err);
    if (!texts[_i].refused) {
        ck_assert_msg(rc == 0, "%s: %s", texts[_i].text, err.message);
        return;
    }
    ck_assert_int_eq(rc, -EINVAL);
    ck_assert_msg(strstr(err.message, texts[_i].refused) != NULL, "%s", err.message);
    ck_assert(!cpu_settings_any(&settings));
}
END_TEST

static void say(struct cpu_settings *settings, const char *key, const char *text)
{
    ck_assert_int_eq(cpu_settings_parse(settings, key, text, NULL), 0);
}

START_TEST(a_vcpu_comes_before_the_machine)
{
    struct cpu_settings settings = {0};
    struct sched_params params;
    cpu_settings_resolve(&settings, 0, &params);
    ck_assert_uint_eq(params.weight, SCHED_WEIGHT_DEFAULT);
    ck_assert_uint_eq(params.slice, SCHED_SLICE_DEFAULT);
    ck_assert_uint_eq(params.cap.quota, 0);
    ck_assert(sched_cpus_has(&params.affinity, 255));
    say(&settings, "weight", "200");
    say(&settings, "weight", "1=50");
    say(&settings, "cap", "150%");
    say(&settings, "cap", "1=25%");
    say(&settings, "affinity", "0-1");
    say(&settings, "affinity", "1=1");
    cpu_settings_resolve(&settings, 0, &params);
    ck_assert_uint_eq(params.weight, 200);
    ck_assert_uint_eq(params.cap.quota, 0); // the machine's cap is for all together
    cpu_settings_resolve(&settings, 1, &params);
    ck_assert_uint_eq(params.weight, 50);
    ck_assert_uint_eq(params.cap.quota * 4, params.cap.period);
    ck_assert(!sched_cpus_has(&params.affinity, 0) && sched_cpus_has(&params.affinity, 1));
    say(&settings, "weight", "1=none");
    cpu_settings_resolve(&settings, 1, &params);
    ck_assert_uint_eq(params.weight, 200);
    ck_assert_int_eq(cpu_settings_check(&settings, 2, NULL), 0);
    ck_assert_int_eq(cpu_settings_check(&settings, 1, NULL), -EINVAL);
    settings.backend = CPU_BACKEND_NONE;
    ck_assert_int_eq(cpu_settings_check(&settings, 2, NULL), -EINVAL);
}
END_TEST

START_TEST(json_round_trip)
{
    const char *text = "{\"weight\": 300, \"cap\": \"150%\", \"slice\": \"1500us\", \"affinity\": "
                       "\"0,2-3\", \"backend\": \"own\", \"vcpus\": {\"1\": {\"weight\": 7}}}";
    struct cpu_settings settings = {0}, again = {0};
    struct error err = {0};
    json_t *given = json_loads(text, 0, NULL);
    ck_assert_msg(cpu_settings_from_json(&settings, given, &err) == 0, "%s", err.message);
    json_t *json = cpu_settings_to_json(&settings);
    ck_assert(json_equal(json, given));
    ck_assert_int_eq(cpu_settings_from_json(&again, json, &err), 0);
    ck_assert_int_eq(memcmp(&settings, &again, sizeof(settings)), 0);
    json_decref(json);
    json_decref(given);
}
END_TEST

static const char *const bad_json[] = {
    "[]",
    "{\"weight\": 0}",
    "{\"weight\": true}",
    "{\"speed\": 1}",
    "{\"backend\": \"magic\"}",
    "{\"vcpus\": []}",
    "{\"vcpus\": {\"64\": {}}}",
    "{\"vcpus\": {\"0\": {\"backend\": \"own\"}}}",
    "{\"group\": \"all\"}",
};

START_TEST(bad_json_is_refused)
{
    struct cpu_settings settings = {0};
    struct error err = {0};
    json_t *json = json_loads(bad_json[_i], JSON_DECODE_ANY, NULL);
    ck_assert_int_eq(cpu_settings_from_json(&settings, json, &err), -EINVAL);
    ck_assert_str_ne(err.message, "");
    json_decref(json);
}
END_TEST

START_TEST(nice_values)
{
    ck_assert_int_eq(sched_attributes_nice(100), 0);
    ck_assert_int_eq(sched_attributes_nice(125), -1);
    ck_assert_int_eq(sched_attributes_nice(80), 1);
    ck_assert_int_eq(sched_attributes_nice(200), -3);
    ck_assert_int_eq(sched_attributes_nice(1), 19);
    ck_assert_int_eq(sched_attributes_nice(10000), -20);
}
END_TEST

// ---- control groups ----

static char place[64];

static void make_file(const char *dir, const char *file)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    close(open(path, O_WRONLY | O_CREAT, 0600));
}

// What the kernel would put into a new group, as plain files.
// used: making the directories twice is what a second machine of this process would do.
static void make_group(const char *dir)
{
    static const char *const files[] = {
        "cpu.shares",  "cpu.cfs_quota_us", "cpu.cfs_period_us", "tasks",
        "cpu.weight",  "cpu.max",          "cgroup.procs",      "cgroup.threads",
        "cgroup.type", "cpuset.cpus",      "cpuset.mems",       "cgroup.subtree_control",
    };
    mkdir(dir, 0700);
    for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        make_file(dir, files[i]);
}

static const char *contents(const char *group, const char *file)
{
    static char text[256];
    char path[512];
    snprintf(path, sizeof(path), "%s/ferry-%d%s/%s", place, (int)getpid(), group, file);
    int fd = open(path, O_RDONLY);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return text;
}

static void groups_of(int version, const struct cpu_settings *settings)
{
    struct cpu_cgroup_mounts places = {0};
    struct cpu_cgroup *cgroup;
    struct error err = {0};
    char dir[128];
    pid_t tids[2] = {(pid_t)syscall(SYS_gettid), (pid_t)syscall(SYS_gettid)};
    strcpy(place, "/tmp/ferry-cgroup.XXXXXX");
    ck_assert(mkdtemp(place) != NULL);
    make_group(place);
    snprintf(dir, sizeof(dir), "%s/ferry-%d", place, (int)getpid());
    make_group(dir);
    for (unsigned i = 0; i < 2; i++) {
        snprintf(dir, sizeof(dir), "%s/ferry-%d/vcpu%u", place, (int)getpid(), i);
        make_group(dir);
    }
    snprintf(places.cpu, sizeof(places.cpu), "%s", place);
    ck_assert_msg(cpu_cgroup_create_at(&cgroup, version, 2, &places, &err) == 0, "%s", err.message);
    ck_assert_msg(cpu_cgroup_apply(cgroup, settings, tids, 2, &err) == 0, "%s", err.message);
    cpu_cgroup_destroy(cgroup);
}

static void remove_groups(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -rf %s", place);
    ck_assert_int_eq(system(command), 0);
}

START_TEST(groups_of_version_1)
{
    struct cpu_settings settings = {0};
    say(&settings, "weight", "200");
    say(&settings, "weight", "1=50");
    say(&settings, "cap", "150%");
    say(&settings, "cap", "1=1%");
    groups_of(1, &settings);
    ck_assert_str_eq(contents("/vcpu0", "cpu.shares"), "2048");
    ck_assert_str_eq(contents("/vcpu1", "cpu.shares"), "512");
    ck_assert_str_eq(contents("", "cpu.shares"), "2560");
    ck_assert_str_eq(contents("/vcpu0", "cpu.cfs_quota_us"), "-1");
    ck_assert_str_eq(contents("", "cpu.cfs_quota_us"), "30000");
    ck_assert_str_eq(contents("", "cpu.cfs_period_us"), "20000");
    // 200 us would be less than the kernel takes.
    ck_assert_str_eq(contents("/vcpu1", "cpu.cfs_quota_us"), "1000");
    ck_assert_str_eq(contents("/vcpu1", "cpu.cfs_period_us"), "100000");
    ck_assert_int_eq(atoi(contents("/vcpu0", "tasks")), (int)syscall(SYS_gettid));
    remove_groups();
}
END_TEST

START_TEST(groups_of_version_2)
{
    struct cpu_settings settings = {0};
    say(&settings, "weight", "200");
    say(&settings, "weight", "1=50");
    say(&settings, "cap", "150%");
    say(&settings, "affinity", "0");
    groups_of(2, &settings);
    ck_assert_str_eq(contents("/vcpu0", "cpu.weight"), "200");
    ck_assert_str_eq(contents("/vcpu1", "cpu.weight"), "50");
    ck_assert_str_eq(contents("", "cpu.weight"), "250");
    ck_assert_str_eq(contents("", "cpu.max"), "30000 20000");
    ck_assert_str_eq(contents("/vcpu0", "cpu.max"), "max");
    ck_assert_str_eq(contents("/vcpu0", "cgroup.type"), "threaded");
    ck_assert_str_eq(contents("/vcpu0", "cpuset.cpus"), "0");
    ck_assert_int_eq(atoi(contents("/vcpu1", "cgroup.threads")), (int)syscall(SYS_gettid));
    ck_assert_int_eq(atoi(contents("", "cgroup.procs")), (int)getpid());
    remove_groups();
}
END_TEST

// ---- groups that can't be had ----

// An empty place, and in it what a test puts there.
static struct cpu_cgroup_mounts empty_place(void)
{
    struct cpu_cgroup_mounts places = {0};
    strcpy(place, "/tmp/ferry-cgroup.XXXXXX");
    ck_assert(mkdtemp(place) != NULL);
    snprintf(places.cpu, sizeof(places.cpu), "%s", place);
    return places;
}

// A path in the place: "%d" stands for this process.
static const char *path_of(const char *form, pid_t pid)
{
    static char path[256];
    int used = snprintf(path, sizeof(path), "%s/", place);
    snprintf(path + used, sizeof(path) - (size_t)used, form, (int)pid);
    return path;
}

// What a write finds in a file of a group: one that isn't there, or one that refuses.
static const struct {
    int version;
    const char *file, *instead; // below "ferry-PID/"
    int rc;
    const char *message;
} broken_files[] = {
    {1, "vcpu0/cpu.shares", NULL, -ENOENT, "control group of vCPU 0"},
    {1, "vcpu1/cpu.cfs_quota_us", "/dev/full", -ENOSPC, "control group of vCPU 1"},
    {1, "vcpu1/tasks", "/dev/full", -ENOSPC, "control group of vCPU 1"},
    {1, "cpu.shares", "/dev/full", -ENOSPC, "the machine's control group"},
    {1, "cpu.cfs_period_us", NULL, -ENOENT, "the machine's control group"},
    {2, "cpu.weight", NULL, -ENOTSUP, "other processes"}, // the controller isn't given to it
    {2, "cgroup.procs", "/dev/full", -ENOSPC, "preparing the control group"},
    {2, "vcpu1/cgroup.type", NULL, -ENOENT, "preparing the control group"},
    {2, "cgroup.subtree_control", "/dev/full", -ENOSPC, "preparing the control group"},
    {2, "vcpu0/cpu.max", "/dev/full", -ENOSPC, "control group of vCPU 0"},
    {2, "vcpu0/cgroup.threads", "/dev/full", -ENOSPC, "control group of vCPU 0"},
    {2, "vcpu1/cpuset.cpus", NULL, -ENOENT, "control group of vCPU 1"},
    {2, "cpu.max", "/dev/full", -ENOSPC, "the machine's control group"},
};

START_TEST(groups_whose_files_refuse)
{
    struct cpu_cgroup_mounts places = empty_place();
    struct cpu_settings settings = {0};
    struct cpu_cgroup *cgroup = NULL;
    struct error err = {0};
    char file[128];
    pid_t tids[2] = {(pid_t)syscall(SYS_gettid), (pid_t)syscall(SYS_gettid)};
    say(&settings, "cap", "50%");
    make_group(place);
    make_group(path_of("ferry-%d", getpid()));
    make_group(path_of("ferry-%d/vcpu0", getpid()));
    make_group(path_of("ferry-%d/vcpu1", getpid()));
    snprintf(file, sizeof(file), "ferry-%%d/%s", broken_files[_i].file);
    ck_assert_int_eq(unlink(path_of(file, getpid())), 0);
    if (broken_files[_i].instead)
        ck_assert_int_eq(symlink(broken_files[_i].instead, path_of(file, getpid())), 0);
    int rc = cpu_cgroup_create_at(&cgroup, broken_files[_i].version, 2, &places, &err);
    if (rc == 0)
        rc = cpu_cgroup_apply(cgroup, &settings, tids, 2, &err);
    ck_assert_int_eq(rc, broken_files[_i].rc);
    ck_assert_msg(strstr(err.message, broken_files[_i].message) != NULL, "%s", err.message);
    cpu_cgroup_destroy(cgroup);
    remove_groups();
}
END_TEST

// Descriptors that are open in this process.
static unsigned open_files(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

START_TEST(groups_without_the_right_to_make_them)
{
    struct cpu_cgroup_mounts places = empty_place();
    struct cpu_cgroup *cgroup;
    struct error err = {0};
    ck_assert_int_eq(chmod(place, 0555), 0);
    if (geteuid() == 0 && seteuid(65534) != 0) { // nobody
        remove_groups();
        return; // a root that can't be anybody else
    }
    unsigned before = open_files();
    ck_assert_int_eq(cpu_cgroup_create_at(&cgroup, 1, 2, &places, &err), -EACCES);
    ck_assert(strstr(err.message, "making the control group") != NULL);
    ck_assert(strstr(err.message, place) != NULL);
    ck_assert_uint_eq(open_files(), before);
    if (getuid() == 0)
        ck_assert_int_eq(seteuid(0), 0);
    remove_groups();
}
END_TEST

// A place that is gone, and something in the way of the group and of its parts.
START_TEST(groups_with_something_in_their_way)
{
    struct cpu_cgroup_mounts places = empty_place();
    struct cpu_cgroup *cgroup;
    struct error err = {0};
    unsigned before = open_files();
    make_file(place, path_of("ferry-%d", getpid()) + strlen(place) + 1);
    ck_assert_int_eq(cpu_cgroup_create_at(&cgroup, 1, 2, &places, &err), -ENOTDIR);
    ck_assert_int_eq(unlink(path_of("ferry-%d", getpid())), 0);
    mkdir(path_of("ferry-%d", getpid()), 0700);
    make_file(place, path_of("ferry-%d/vcpu1", getpid()) + strlen(place) + 1);
    ck_assert_int_eq(cpu_cgroup_create_at(&cgroup, 1, 2, &places, &err), -ENOTDIR);
    ck_assert_int_ne(access(path_of("ferry-%d/vcpu0", getpid()), F_OK), 0); // what was made
    remove_groups();
    ck_assert_int_eq(cpu_cgroup_create_at(&cgroup, 1, 2, &places, &err), -ENOENT);
    ck_assert_uint_eq(open_files(), before);
}
END_TEST

// What a killed process left goes; what a living one has, and what isn't ours, stays.
START_TEST(groups_are_cleaned_up)
{
    struct cpu_cgroup_mounts places = empty_place();
    struct cpu_cgroup *cgroup;
    struct error err = {0};
    pid_t dead = fork();
    if (dead == 0)
        _exit(0);
    ck_assert_int_eq(waitpid(dead, NULL, 0), dead);
    mkdir(path_of("ferry-%d", dead), 0700);
    mkdir(path_of("ferry-%d/vcpu0", dead), 0700);
    mkdir(path_of("ferry-%d/vcpu63", dead), 0700);
    mkdir(path_of("ferry-%d", getppid()), 0700);
    mkdir(path_of("ferry-%dx", dead), 0700);
    mkdir(path_of("other", 0), 0700);
    ck_assert_int_eq(cpu_cgroup_create_at(&cgroup, 1, 2, &places, &err), 0);
    ck_assert_int_ne(access(path_of("ferry-%d", dead), F_OK), 0);
    ck_assert_int_eq(access(path_of("ferry-%d", getppid()), F_OK), 0);
    ck_assert_int_eq(access(path_of("ferry-%dx", dead), F_OK), 0);
    ck_assert_int_eq(access(path_of("other", 0), F_OK), 0);
    ck_assert_int_eq(access(path_of("ferry-%d/vcpu1", getpid()), F_OK), 0);
    cpu_cgroup_destroy(cgroup);
    ck_assert_int_ne(access(path_of("ferry-%d", getpid()), F_OK), 0);
    remove_groups();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cpu_settings");
    TCase *tc = tcase_create("cpu_settings");
    tcase_add_loop_test(tc, option_texts, 0, sizeof(texts) / sizeof(texts[0]));
    tcase_add_test(tc, a_vcpu_comes_before_the_machine);
    tcase_add_test(tc, json_round_trip);
    tcase_add_loop_test(tc, bad_json_is_refused, 0, sizeof(bad_json) / sizeof(bad_json[0]));
    tcase_add_test(tc, nice_values);
    tcase_add_test(tc, groups_of_version_1);
    tcase_add_test(tc, groups_of_version_2);
    tcase_add_loop_test(tc, groups_whose_files_refuse, 0,
                        sizeof(broken_files) / sizeof(broken_files[0]));
    tcase_add_test(tc, groups_without_the_right_to_make_them);
    tcase_add_test(tc, groups_with_something_in_their_way);
    tcase_add_test(tc, groups_are_cleaned_up);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
