// The runtime directory: who may claim a name, what a dead machine leaves, races.
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/run_suite.h"
#include "tests/unit/runtime_root.h"

static void put(const struct runtime_machine *machine, const char *file)
{
    int fd = runtime_machine_open(machine, file, O_WRONLY | O_CREAT, &err);
    ck_assert_int_ge(fd, 0);
    close(fd);
}

static bool has(const char *name, const char *file)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof(path), "%s/%s/%s", root, name, file);
    return access(path, F_OK) == 0;
}

// A process that claims the name and stays, until it is killed.
static pid_t start_holder(const char *name)
{
    int ends[2];
    char byte;
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        struct runtime_machine machine;
        if (runtime_machine_claim(&dir, name, &machine, NULL) != 0)
            _exit(1);
        put(&machine, "control.sock");
        put(&machine, "console.log");
        if (write(ends[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    return child;
}

static void kill_holder(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

START_TEST(names_are_exclusive_while_held)
{
    struct runtime_machine first, second;
    ck_assert_int_eq(runtime_dir_is_alive(&dir, "web"), -ENOENT);
    ck_assert_int_eq(runtime_machine_claim(&dir, "web", &first, &err), 0);
    ck_assert_str_eq(first.name, "web");
    ck_assert_int_eq(runtime_dir_is_alive(&dir, "web"), 1);
    ck_assert_int_eq(runtime_machine_claim(&dir, "web", &second, &err), -EEXIST);
    ck_assert_ptr_nonnull(strstr(err.message, "a machine named 'web' is running"));
    ck_assert_int_eq(runtime_dir_remove(&dir, "web", &err), -EBUSY);
    put(&first, "control.sock");
    put(&first, "console.log");
    runtime_machine_release(&dir, &first, false);
    ck_assert_int_eq(runtime_dir_is_alive(&dir, "web"), 0);
    ck_assert(!has("web", "control.sock") && has("web", "console.log"));
    ck_assert_int_eq(runtime_machine_claim(&dir, "web", &second, &err), 0);
    ck_assert(!has("web", "console.log"));
    runtime_machine_release(&dir, &second, true);
    ck_assert_int_eq(runtime_dir_is_alive(&dir, "web"), -ENOENT);
}
END_TEST

START_TEST(killed_machine_is_seen_and_cleaned)
{
    struct runtime_machine machine;
    pid_t child = start_holder("web");
    ck_assert_int_eq(runtime_dir_is_alive(&dir, "web"), 1);
    ck_assert_int_eq(runtime_machine_claim(&dir, "web", &machine, &err), -EEXIST);
    kill_holder(child);
    ck_assert_int_eq(runtime_dir_is_alive(&dir, "web"), 0);
    ck_assert(has("web", "control.sock"));
    ck_assert_ptr_null(runtime_dir_read_exit(&dir, "web"));
    ck_assert_int_eq(runtime_machine_claim(&dir, "web", &machine, &err), 0);
    ck_assert(!has("web", "control.sock"));
    runtime_machine_release(&dir, &machine, false);

    child = start_holder("web");
    kill_holder(child);
    ck_assert_int_eq(runtime_dir_remove(&dir, "web", &err), 0);
    ck_assert_int_eq(runtime_dir_remove(&dir, "web", &err), -ENOENT);
}
END_TEST

START_TEST(looking_never_takes_the_lock)
{
    // Claims must never fail because somebody else happened to look.
    pid_t child = fork();
    if (child == 0) {
        for (;;)
            runtime_dir_is_alive(&dir, "web");
    }
    for (int i = 0; i < 300; i++) {
        struct runtime_machine machine;
        int r = runtime_machine_claim(&dir, "web", &machine, &err);
        if (r)
            kill_holder(child);
        ck_assert_msg(r == 0, "%s", err.message);
        runtime_machine_release(&dir, &machine, i % 2);
    }
    kill_holder(child);
}
END_TEST

// Several processes claim, release and remove one name; each owner checks that it is alone.
START_TEST(races_leave_one_owner)
{
    enum { PROCESSES = 6, ROUNDS = 150 };
    for (int p = 0; p < PROCESSES; p++) {
        if (fork() != 0)
            continue;
        struct runtime_dir own; // locks of one open file would not exclude each other
        if (runtime_dir_open(&own, root, NULL) != 0)
            _exit(2);
        for (int i = 0; i < ROUNDS; i++) {
            struct runtime_machine machine;
            if (p == 0) {
                runtime_dir_remove(&own, "web", NULL);
                continue;
            }
            if (runtime_machine_claim(&own, "web", &machine, NULL) != 0)
                continue;
            int fd = runtime_machine_open(&machine, "log", O_CREAT | O_EXCL | O_WRONLY, NULL);
            if (fd < 0 || !has("web", "lock"))
                _exit(3); // somebody else is in here, or took it away
            close(fd);
            if (unlinkat(machine.fd, "log", 0) != 0)
                _exit(4);
            runtime_machine_release(&own, &machine, i % 3 == 0);
        }
        _exit(0);
    }
    for (int p = 0; p < PROCESSES; p++) {
        int status;
        ck_assert_int_gt(wait(&status), 0);
        ck_assert_int_eq(status, 0);
    }
}
END_TEST

START_TEST(names_are_made_up)
{
    struct runtime_machine first, second;
    ck_assert_int_eq(runtime_machine_claim(&dir, "", &first, &err), 0);
    ck_assert_int_eq(runtime_machine_claim(&dir, "", &second, &err), 0);
    ck_assert(name_is_valid(first.name) && name_is_valid(second.name));
    ck_assert_str_ne(first.name, second.name);
    runtime_machine_release(&dir, &first, true);
    runtime_machine_release(&dir, &second, true);
}
END_TEST

static int note(const char *name, bool alive, void *opaque)
{
    char *list = opaque;
    sprintf(list + strlen(list), "%s=%d ", name, alive);
    return 0;
}

START_TEST(list_shows_living_and_dead)
{
    char list[200] = "";
    struct runtime_machine a, b;
    runtime_machine_claim(&dir, "b", &b, &err);
    runtime_machine_claim(&dir, "a", &a, &err);
    runtime_machine_release(&dir, &a, false);
    // A start that was killed before it made its lock, and things that are nobody's.
    mkdirat(dir.fd, "c", 0700);
    mkdirat(dir.fd, "Other", 0700);
    ck_assert_int_eq(symlinkat("b", dir.fd, "link"), 0);
    close(openat(dir.fd, "file", O_CREAT | O_WRONLY, 0600));
    ck_assert_int_eq(runtime_dir_list(&dir, note, list, &err), 0);
    ck_assert_str_eq(list, "a=0 b=1 c=0 ");
    ck_assert_int_eq(runtime_dir_remove(&dir, "c", &err), 0);
    ck_assert_int_eq(runtime_dir_remove(&dir, "link", &err), -ENOENT);
    ck_assert_int_eq(runtime_dir_remove(&dir, "../x", &err), -ENOENT);
    runtime_machine_release(&dir, &b, false);
}
END_TEST

START_TEST(exit_status_is_kept)
{
    struct runtime_machine machine;
    runtime_machine_claim(&dir, "web", &machine, &err);
    json_t *status = json_pack("{s:s}", "reason", "power-off");
    ck_assert_int_eq(runtime_machine_write_exit(&machine, status, &err), 0);
    runtime_machine_release(&dir, &machine, false);
    json_t *read = runtime_dir_read_exit(&dir, "web");
    ck_assert(json_equal(read, status));
    json_decref(read);
    json_decref(status);
    ck_assert(!has("web", "exit.json.new"));
}
END_TEST

// The limit stands for a disk that takes no more than what was set aside.
START_TEST(exit_status_fits_on_a_full_disk)
{
    struct runtime_machine machine;
    struct rlimit before, full = {4096, RLIM_INFINITY};
    char report[8000];
    memset(report, 'x', sizeof(report));
    runtime_machine_claim(&dir, "web", &machine, &err);
    ck_assert(has("web", "exit.json.new"));
    json_t *status =
        json_pack("{s:s, s:s%}", "reason", "crash", "crash_report", report, (size_t)sizeof(report));
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    full.rlim_max = before.rlim_max;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &full), 0);
    int r = runtime_machine_write_exit(&machine, status, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_DFL);
    ck_assert_int_eq(r, 0);
    runtime_machine_release(&dir, &machine, false);
    json_t *read = runtime_dir_read_exit(&dir, "web");
    json_object_del(status, "crash_report");
    ck_assert(json_equal(read, status));
    json_decref(read);
    json_decref(status);
}
END_TEST

START_TEST(directory_must_be_ours_alone)
{
    char path[PATH_MAX + 16];
    struct runtime_dir other;
    snprintf(path, sizeof(path), "%s/open", root);
    mkdir(path, 0777);
    chmod(path, 0777);
    ck_assert_int_eq(runtime_dir_open(&other, path, &err), -EPERM);
    ck_assert_ptr_nonnull(strstr(err.message, "written to by others"));
    snprintf(path, sizeof(path), "%s/link", root);
    ck_assert_int_eq(symlink(root, path), 0);
    ck_assert_int_eq(runtime_dir_open(&other, path, &err), -ENOTDIR);
    snprintf(path, sizeof(path), "%s/foreign", root);
    mkdir(path, 0700);
    if (geteuid() == 0) {
        ck_assert_int_eq(chown(path, 12345, 12345), 0);
        ck_assert_int_eq(runtime_dir_open(&other, path, &err), -EPERM);
        ck_assert_ptr_nonnull(strstr(err.message, "belongs to user 12345"));
    }
    ck_assert_int_eq(runtime_dir_open(&other, "", &err), -EINVAL);
    ck_assert_int_eq(runtime_dir_open(&other, "/nonexistent/a/b", &err), -ENOENT);
}
END_TEST

START_TEST(long_paths_are_refused_early)
{
    char path[PATH_MAX + 128], part[90];
    memset(part, 'x', sizeof(part));
    part[sizeof(part) - 1] = 0;
    snprintf(path, sizeof(path), "%s/%s", root, part);
    struct runtime_dir deep;
    struct runtime_machine machine;
    ck_assert_int_eq(runtime_dir_open(&deep, path, &err), 0);
    ck_assert_int_eq(runtime_machine_claim(&deep, "web", &machine, &err), -ENAMETOOLONG);
    ck_assert_ptr_nonnull(strstr(err.message, "shorter"));
    runtime_dir_close(&deep);
}
END_TEST

START_TEST(facts_last_for_this_boot)
{
    char value[32];
    ck_assert(!runtime_dir_recall(&dir, "ring0", value, sizeof(value)));
    runtime_dir_remember(&dir, "ring0", "native");
    ck_assert(runtime_dir_recall(&dir, "ring0", value, sizeof(value)));
    ck_assert_str_eq(value, "native");
    int fd = openat(dir.fd, ".fact-ring0", O_WRONLY | O_TRUNC);
    ck_assert_int_eq(write(fd, "another-boot native\n", 20), 20);
    ck_assert(!runtime_dir_recall(&dir, "ring0", value, sizeof(value)));
    ck_assert_int_eq(ftruncate(fd, 0), 0);
    ck_assert(!runtime_dir_recall(&dir, "ring0", value, sizeof(value)));
    close(fd);
}
END_TEST

START_TEST(default_places)
{
    char expected[PATH_MAX];
    struct runtime_dir other;
    setenv("FERRY_RUNTIME_DIR", root, 1);
    ck_assert_int_eq(runtime_dir_open(&other, NULL, &err), 0);
    ck_assert_str_eq(other.path, root);
    runtime_dir_close(&other);
    unsetenv("FERRY_RUNTIME_DIR");
    // As somebody who isn't root: in the saved id we stay what we are.
    uid_t self = geteuid(), other_user = self ? self : 12345;
    ck_assert_int_eq(seteuid(other_user), 0);
    setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
    ck_assert_int_lt(runtime_dir_open(&other, NULL, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.message, "/nonexistent/ferry"));
    unsetenv("XDG_RUNTIME_DIR");
    ck_assert_int_eq(runtime_dir_open(&other, NULL, &err), 0);
    snprintf(expected, sizeof(expected), "/tmp/ferry-%u", (unsigned)other_user);
    ck_assert_str_eq(other.path, expected);
    runtime_dir_close(&other);
    rmdir(expected); // stays when machines of that user are in it
    ck_assert_int_eq(seteuid(self), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("runtime");
    TCase *tests = tcase_create("runtime");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_test(tests, names_are_exclusive_while_held);
    tcase_add_test(tests, killed_machine_is_seen_and_cleaned);
    tcase_add_test(tests, looking_never_takes_the_lock);
    tcase_add_test(tests, races_leave_one_owner);
    tcase_add_test(tests, names_are_made_up);
    tcase_add_test(tests, list_shows_living_and_dead);
    tcase_add_test(tests, exit_status_is_kept);
    tcase_add_test(tests, exit_status_fits_on_a_full_disk);
    tcase_add_test(tests, directory_must_be_ours_alone);
    tcase_add_test(tests, long_paths_are_refused_early);
    tcase_add_test(tests, facts_last_for_this_boot);
    tcase_add_test(tests, default_places);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
