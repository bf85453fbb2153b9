// What a process that a signal ends leaves in its log, and how it is read there.
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/last_word.h"
#include "base/log.h"
#include "tests/unit/run_suite.h"
#include "tests/unit/runtime_root.h"

// ---- ways to end ----

static void touch_nothing(void)
{
    *(volatile char *)NULL = 1;
}

static void touch_a_cut_file(void)
{
    int fd = memfd_create("cut", 0);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *(volatile char *)page = 1;
}

static void give_up(void)
{
    abort();
}

static void run_out_of_time(void)
{
    raise(SIGXCPU);
}

static void real_time(void)
{
    raise(SIGRTMIN + 3);
}

static void by_force(void)
{
    raise(SIGKILL);
}

struct way {
    void (*end)(void);
    int signal;
    bool is_fault; // which the sanitizers report themselves
    const char *said;
};

static const struct way ways[] = {
    {touch_nothing, SIGSEGV, true, "SIGSEGV at address (nil) in thread 'ends', code at "},
    {touch_a_cut_file, SIGBUS, true, "become shorter"},
    {give_up, SIGABRT, true, "SIGABRT of its own in thread 'ends', code at "},
    {run_out_of_time, SIGXCPU, false, "SIGXCPU of its own in thread 'ends'"},
    {real_time, 0, false, "a real-time signal (3) of its own in thread 'ends'"},
    {by_force, SIGKILL, false, "died without a word: it was killed by force"},
};

static void *thread_main(void *opaque)
{
    pthread_setname_np(pthread_self(), "ends");
    ((const struct way *)opaque)->end();
    return NULL;
}

// In a thread as a vCPU's: what comes from outside is blocked in it.
static void end_so(const struct way *way)
{
    struct runtime_machine machine;
    pthread_t thread;
    sigset_t blocked;
    if (runtime_machine_claim(&dir, "dies", &machine, &err) < 0)
        _exit(97);
    log_open(runtime_machine_open(&machine, "log", O_WRONLY | O_CREAT | O_APPEND, &err),
             LOG_LEVEL_INFO);
    last_word_prepare();
    log_info("it begins");
    sigfillset(&blocked);
    last_word_leave_open(&blocked);
    if (!way->is_fault)
        sigemptyset(&blocked);
    pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    if (pthread_create(&thread, NULL, thread_main, (void *)way) != 0)
        _exit(98);
    pthread_join(thread, NULL);
    _exit(99);
}

START_TEST(death_is_read_from_the_log)
{
    const struct way *way = &ways[_i];
    char death[RUNTIME_DEATH_SIZE];
    int status;
#if defined(__SANITIZE_ADDRESS__)
    if (way->is_fault)
        return;
#endif
    pid_t child = fork();
    if (child == 0)
        end_so(way);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status));
    ck_assert_int_eq(WTERMSIG(status), way->signal ? way->signal : SIGRTMIN + 3);
    ck_assert_int_eq(runtime_dir_is_alive(&dir, "dies"), 0);
    runtime_dir_read_death(&dir, "dies", death);
    ck_assert_msg(strstr(death, way->said) != NULL, "%s", death);
    ck_assert_ptr_null(strchr(death, '\n'));
}
END_TEST

START_TEST(sender_is_named)
{
    static const struct way forever = {.end = (void (*)(void))pause};
    char death[RUNTIME_DEATH_SIZE], expected[80];
    int status;
    pid_t child = fork();
    if (child == 0)
        end_so(&forever);
    // Until it has said that it begins: its handlers stand.
    char path[PATH_MAX];
    ck_assert_int_eq(runtime_dir_path(&dir, "dies", "log", path), 0);
    for (;;) {
        FILE *file = fopen(path, "re");
        int first = file ? fgetc(file) : EOF;
        if (file)
            fclose(file);
        if (first != EOF)
            break;
        usleep(1000);
    }
    kill(child, SIGALRM);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM);
    runtime_dir_read_death(&dir, "dies", death);
    snprintf(expected, sizeof(expected), "died: SIGALRM was sent by process %d of user %u",
             (int)getpid(), (unsigned)getuid());
    ck_assert_str_eq(death, expected);
}
END_TEST

START_TEST(last_of_a_long_log_counts)
{
    struct runtime_machine machine;
    char death[RUNTIME_DEATH_SIZE];
    ck_assert_int_eq(runtime_machine_claim(&dir, "long", &machine, &err), 0);
    FILE *file = fdopen(runtime_machine_open(&machine, "log", O_WRONLY | O_CREAT, &err), "w");
    for (int i = 0; i < 1000; i++)
        fprintf(file, "a line\n");
    fprintf(file, "T error " LAST_WORD "the first\nT error " LAST_WORD "the second\nmore\n");
    fclose(file);
    runtime_machine_release(&dir, &machine, false);
    runtime_dir_read_death(&dir, "long", death);
    ck_assert_str_eq(death, "died: the second");
    runtime_dir_read_death(&dir, "nobody", death);
    ck_assert_ptr_nonnull(strstr(death, "without a word"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("last word");
    TCase *tests = tcase_create("last word");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_add_loop_test(tests, death_is_read_from_the_log, 0, sizeof(ways) / sizeof(ways[0]));
    tcase_add_test(tests, sender_is_named);
    tcase_add_test(tests, last_of_a_long_log_counts);
    suite_add_tcase(suite, tests);
    return run_suite(suite);
}
