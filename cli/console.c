// ferry console: this terminal as the machine's console.
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/local_socket.h"
#include "cli/commands.h"
#include "cli/console.h"
#include "cli/machine_access.h"
#include "cli/terminal.h"

static const struct option_spec options[] = {OPTIONS_RUNTIME_DIR, {0}};

struct console {
    int socket_fd;
    bool raw;
    bool in_menu;
    bool left; // by the menu
};

static int write_all(int fd, const char *bytes, size_t length)
{
    while (length) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
            continue;
        }
        if (n < 0)
            return -errno;
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

static int say(const char *text)
{
    return write_all(STDERR_FILENO, text, strlen(text));
}

// Handles the key after Ctrl-]; false when it is for the guest.
static bool menu_took(struct console *c, char key)
{
    c->in_menu = false;
    if (key == TERMINAL_ESCAPE)
        return false;
    c->left = key == 'q';
    say("\r\n");
    return true;
}

static int send_typed(struct console *c, const char *bytes, size_t length)
{
    int r = 0;
    for (size_t i = 0; i < length && !c->left && !r; i++) {
        bool was_in_menu = c->in_menu;
        if (was_in_menu && menu_took(c, bytes[i]))
            continue;
        if (c->raw && !was_in_menu && bytes[i] == TERMINAL_ESCAPE) {
            c->in_menu = true;
            say("\r\n[ferry] q leaves the console, Ctrl-] sends it, any other key goes back: ");
            continue;
        }
        r = write_all(c->socket_fd, bytes + i, 1);
    }
    return r;
}

// Moves bytes both ways until the machine ends or the person leaves.
static int converse(struct console *c, struct error *err)
{
    char bytes[4096];
    struct pollfd states[] = {{.fd = STDIN_FILENO, .events = POLLIN},
                              {.fd = c->socket_fd, .events = POLLIN}};
    if (isatty(STDIN_FILENO) && !terminal_is_ours(STDIN_FILENO))
        states[0].fd = -1;
    while (!c->left) {
        if (poll(states, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return error_set_errno(err, errno, "waiting");
        }
        if (states[1].revents) {
            ssize_t n = read(c->socket_fd, bytes, sizeof(bytes));
            if (n <= 0)
                return 0; // the machine has ended
            if (write_all(STDOUT_FILENO, bytes, (size_t)n) != 0)
                return 0; // nobody reads any more
        }
        if (states[0].revents) {
            ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));
            if (n > 0 && send_typed(c, bytes, (size_t)n) != 0)
                return 0;
            if (n == 0) {
                shutdown(c->socket_fd, SHUT_WR);
                states[0].fd = -1; // what the guest says is still wanted
            }
        }
    }
    return 0;
}

int console_on(int fd, struct error *err)
{
    struct console c = {.socket_fd = fd};
    if (terminal_is_ours(STDIN_FILENO) && isatty(STDOUT_FILENO)) {
        say("[ferry] Ctrl-] opens a menu, which has the way out\n");
        terminal_restore_on_end_signals();
        c.raw = terminal_make_raw(STDIN_FILENO) == 0;
    }
    int r = converse(&c, err);
    terminal_restore();
    close(c.socket_fd);
    return r;
}

static int console_one(const struct runtime_dir *dir, const char *name, void *opaque,
                       struct error *err)
{
    char path[PATH_MAX];
    json_t *summary = NULL;
    int r = machine_access_call(dir, name, "query", &summary, err); // says why when it can't be
    json_decref(summary);
    if (r)
        return r;
    if (runtime_dir_path(dir, name, "console.sock", path) != 0)
        return error_set(err, ENAMETOOLONG, "the path of '%s' is too long", name);
    int fd = local_socket_connect(path, err);
    return fd < 0 ? fd : console_on(fd, err);
}

static int console(int argc, char **argv)
{
    struct common_options common = {0};
    char **names;
    int status = options_parse(&command_console, argc, argv, &common, &names);
    return status == OPTIONS_GO
               ? machine_access_each(&command_console, &common, names, console_one, NULL)
               : status;
}

const struct subcommand command_console = {
    .name = "console",
    .arguments = "NAME",
    .summary = "connects this terminal to a machine's console",
    .details =
        "On a terminal Ctrl-] opens a menu. Otherwise standard input is sent and the console\n"
        "printed until the machine ends.",
    .options = options,
    .least = 1,
    .most = 1,
    .run = console,
};
