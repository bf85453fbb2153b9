// ferry logs
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/machine_access.h"
#include "vmm/console_hub.h"

struct logs_options {
    struct common_options common;
    bool vmm, follow;
};

static const struct option_spec options[] = {
    {.name = "vmm",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct logs_options, vmm),
     .help = "what ferry has to say about the machine, not the guest"},
    {.name = "follow",
     .letter = 'f',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct logs_options, follow),
     .help = "go on printing until the machine ends"},
    OPTIONS_RUNTIME_DIR,
    {0},
};

// Prints what is behind *at; moves it on.
static int print_rest(int fd, off_t *at, struct error *err)
{
    char block[64 * 1024];
    struct stat st;
    if (fstat(fd, &st) != 0)
        return error_set_errno(err, errno, "reading the log");
    // It became shorter: the console's log drops its older half when it is full, ferry's own starts
    // afresh.
    if (*at > st.st_size)
        *at = *at - CONSOLE_LOG_LIMIT / 2 > 0 && *at - CONSOLE_LOG_LIMIT / 2 <= st.st_size
                  ? *at - CONSOLE_LOG_LIMIT / 2
                  : 0;
    ssize_t n;
    while ((n = pread(fd, block, sizeof(block), *at)) > 0) {
        *at += n;
        if (fwrite(block, 1, (size_t)n, stdout) != (size_t)n)
            return error_set_errno(err, errno, "printing the log");
    }
    if (fflush(stdout) != 0)
        return error_set_errno(err, errno, "printing the log");
    return n < 0 ? error_set_errno(err, errno, "reading the log") : 0;
}

// Until the machine's end, and what came up to then.
static int follow(const struct runtime_dir *dir, const char *name, int fd, const char *path,
                  off_t *at, struct error *err)
{
    enum { ALIVE_CHECK_MS = 300 };
    int watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), r = 0;
    if (watch_fd < 0 || inotify_add_watch(watch_fd, path, IN_MODIFY) < 0) {
        r = error_set_errno(err, errno, "watching '%s'", path);
        if (watch_fd >= 0)
            close(watch_fd);
        return r;
    }
    bool alive = true;
    while (alive && !r) {
        char events[4096];
        poll(&(struct pollfd){.fd = watch_fd, .events = POLLIN}, 1, ALIVE_CHECK_MS);
        while (read(watch_fd, events, sizeof(events)) > 0)
            ;
        // First whether it lives, then what it wrote: in the other order its last words are lost.
        alive = runtime_dir_is_alive(dir, name) == 1;
        r = print_rest(fd, at, err);
    }
    close(watch_fd);
    return r;
}

static int logs_one(const struct runtime_dir *dir, const char *name, void *opaque,
                    struct error *err)
{
    const struct logs_options *o = opaque;
    char path[PATH_MAX];
    if (!name_is_valid(name) || runtime_dir_is_alive(dir, name) < 0)
        return error_set(err, ENOENT, "there is no machine named '%s' (`ferry ps -a` lists them)",
                         name);
    if (runtime_dir_path(dir, name, o->vmm ? "log" : "console.log", path) != 0)
        return error_set(err, ENAMETOOLONG, "the path of '%s' is too long", name);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "opening '%s'", path);
    off_t at = 0;
    int r = print_rest(fd, &at, err);
    if (!r && o->follow)
        r = follow(dir, name, fd, path, &at, err);
    close(fd);
    return r;
}

static int logs(int argc, char **argv)
{
    struct logs_options o = {0};
    char **names;
    int status = options_parse(&command_logs, argc, argv, &o, &names);
    return status == OPTIONS_GO ? machine_access_each(&command_logs, &o.common, names, logs_one, &o)
                                : status;
}

const struct subcommand command_logs = {
    .name = "logs",
    .arguments = "NAME",
    .summary = "prints what a machine's console has shown (the newest 2 to 4 MiB)",
    .options = options,
    .least = 1,
    .most = 1,
    .run = logs,
};
