#include "cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/output.h"

// The report of a detached machine to the command that started it: one status byte, then a text
// (its name, or what went wrong).
struct report {
    int fd;
};

static void send_report(int fd, int status, const char *text)
{
    char line[800];
    int length = snprintf(line, sizeof(line), "%c%s", status, text);
    if ((size_t)length >= sizeof(line))
        length = sizeof(line) - 1;
    // Nobody may be there to read it any more; the machine doesn't mind.
    signal(SIGPIPE, SIG_IGN);
    if (write(fd, line, (size_t)length) < 0)
        return;
}

static void on_detached_start(void *opaque, const char *name)
{
    struct report *report = opaque;
    // From here on no path is opened by name, and a file system shouldn't be kept busy by a
    // directory that nobody uses.
    if (chdir("/") != 0)
        log_debug("staying in the directory of the start");
    send_report(report->fd, STATUS_OK, name);
    close(report->fd);
    report->fd = -1;
}

// In the child: becomes the machine, with nothing of the caller's but the report's pipe.
static int run_detached(struct machine_config *config, struct process_options *options,
                        int report_fd)
{
    // The report's, then the snapshot's; out of the way until both have their places.
    enum { KEPT_FD = 3, ASIDE_FD = 200 };
    struct report report = {KEPT_FD};
    struct error err = {0};
    if (options->snapshot)
        snapshot_move_fd(options->snapshot, ASIDE_FD);
    int null_fd = open("/dev/null", O_RDWR);
    dup2(null_fd, STDIN_FILENO);
    dup2(null_fd, STDOUT_FILENO);
    dup2(null_fd, STDERR_FILENO);
    dup2(report_fd, KEPT_FD);
    fcntl(KEPT_FD, F_SETFD, FD_CLOEXEC);
    int first_unused = KEPT_FD + 1;
    if (options->snapshot)
        snapshot_move_fd(options->snapshot, first_unused++);
    close_range((unsigned)first_unused, ~0U, 0);
    options->started = on_detached_start;
    // Nobody uses the options after the machine's end, which this function waits for.
    // cppcheck-suppress autoVariables
    options->opaque = &report;
    int status = machine_process_run(config, options, &err);
    if (report.fd >= 0)
        send_report(report.fd, status, err.message);
    return status;
}

// Waits for the report. The pipe closes when the child says it, or dies.
static int await_report(int fd, pid_t child, int failure, const char *command, int format)
{
    char text[800];
    size_t length = 0;
    ssize_t n;
    while (
        length < sizeof(text) - 1 &&
        ((n = read(fd, text + length, sizeof(text) - 1 - length)) > 0 || (n < 0 && errno == EINTR)))
        length += n > 0 ? (size_t)n : 0;
    text[length] = 0;
    if (!length) {
        int how = 0;
        waitpid(child, &how, 0);
        if (WIFSIGNALED(how))
            fprintf(stderr, "ferry: %s: the machine's process died of signal %d\n", command,
                    WTERMSIG(how));
        else
            fprintf(stderr, "ferry: %s: the machine's process ended without a word\n", command);
        return failure;
    }
    if (text[0] == STATUS_OK)
        output_name(text + 1, "running", format);
    else
        fprintf(stderr, "ferry: %s: %s\n", command, text + 1);
    return text[0];
}

int detach_machine(struct machine_config *config, struct process_options *options, int format,
                   const struct subcommand *command)
{
    int ends[2], failure = machine_process_failure_status(config);
    if (pipe2(ends, O_CLOEXEC) != 0) {
        fprintf(stderr, "ferry: %s: making a pipe: %s\n", command->name, strerror(errno));
        return failure;
    }
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        fprintf(stderr, "ferry: %s: starting a process: %s\n", command->name, strerror(errno));
        return failure;
    }
    if (child == 0) {
        // Its own session: no terminal, and none of the signals that a terminal sends.
        setsid();
        _exit(run_detached(config, options, ends[1]));
    }
    close(ends[1]);
    int status = await_report(ends[0], child, failure, command->name, format);
    close(ends[0]);
    return status;
}
