// ferry kill
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/kill.h"
#include "cli/output.h"

enum { ANSWER_MS = 5000, END_MS = 60000 }; // a busy host takes its time to free memory

static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

// For a process that doesn't answer. Its pid is that of who listens at the socket; the descriptor
// is taken before the lock is looked at once more, so that a process which got the pid after the
// machine's end isn't hit.
static int kill_process(const struct runtime_dir *dir, const char *name, pid_t pid,
                        struct error *err)
{
    int pid_fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (pid_fd < 0)
        return error_set(err, ESRCH, "'%s' doesn't answer and its process isn't known", name);
    int r = 0;
    if (runtime_dir_is_alive(dir, name) == 1 &&
        syscall(SYS_pidfd_send_signal, pid_fd, SIGKILL, NULL, 0) != 0)
        r = error_set_errno(err, errno, "'%s' doesn't answer; killing process %d", name, (int)pid);
    else
        fprintf(stderr, "ferry: kill: '%s' doesn't answer: its process %d was killed\n", name,
                (int)pid);
    close(pid_fd);
    return r;
}

static pid_t peer_of(const struct runtime_dir *dir, const char *name)
{
    char path[PATH_MAX];
    int fd = -1;
    if (runtime_dir_path(dir, name, "control.sock", path) == 0)
        fd = local_socket_connect(path, NULL);
    if (fd < 0)
        return 0;
    pid_t pid = local_socket_peer_pid(fd);
    close(fd);
    return pid;
}

int kill_machine(const struct runtime_dir *dir, const char *name, struct error *err)
{
    struct control_client *client = NULL;
    int r = machine_access_connect(dir, name, ANSWER_MS, &client, err);
    if (!r)
        r = control_client_call(client, "kill", NULL, NULL, 0, ANSWER_MS, NULL, err);
    control_client_close(client);
    if (r == -ETIMEDOUT)
        r = kill_process(dir, name, peer_of(dir, name), err);
    if (r && r != -ECONNRESET) // it may have been ending by itself
        return r;
    if (!machine_access_await_end(dir, name, END_MS))
        return error_set(err, ETIMEDOUT, "'%s' was killed, but its process hasn't ended yet", name);
    return 0;
}

static int kill_one(const struct runtime_dir *dir, const char *name, void *opaque,
                    struct error *err)
{
    const struct common_options *common = opaque;
    int r = kill_machine(dir, name, err);
    if (!r)
        output_ended(name, "killed", common->format);
    return r;
}

static int kill_machines(int argc, char **argv)
{
    struct common_options common = {0};
    char **names;
    int status = options_parse(&command_kill, argc, argv, &common, &names);
    return status == OPTIONS_GO
               ? machine_access_each(&command_kill, &common, names, kill_one, &common)
               : status;
}

const struct subcommand command_kill = {
    .name = "kill",
    .arguments = "NAME...",
    .summary = "ends machines at once",
    .details = "A machine whose process doesn't answer within 5 seconds gets SIGKILL.",
    .options = options,
    .least = 1,
    .most = UINT32_MAX,
    .run = kill_machines,
};
