// ferry migrate
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/move_sockets.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"
#include "migrate/channel.h"

enum { PROGRESS_MS = 250, END_MS = 60000 };

struct migrate_options {
    struct common_options common;
    uint64_t downtime_ns, timeout_ns, bandwidth, streams, throttle;
    int on_timeout; // enum on_timeout
    const char *token, *tls_certificate, *tls_key, *tls_ca, *tls_name;
    bool detach, cancel, status;
};

enum on_timeout { ON_TIMEOUT_CANCEL, ON_TIMEOUT_FORCE };
static const char *const on_timeout_names[] = {"cancel", "force", NULL};

#define OPTION(option_name, option_kind_, member, argument_, help_)                                \
    {                                                                                              \
        .name = (option_name), .kind = (option_kind_),                                             \
        .offset = offsetof(struct migrate_options, member), .argument = (argument_),               \
        .help = (help_)                                                                            \
    }

static const struct option_spec options[] = {
    OPTION("downtime", OPTION_DURATION, downtime_ns, "TIME",
           "switch over when the guest would stand for at most this long (10ms)"),
    OPTION("bandwidth", OPTION_SIZE, bandwidth, "SIZE", "use at most this many bytes a second"),
    OPTION("streams", OPTION_NUMBER, streams, "N", "data connections, 1 to 16 (1)"),
    OPTION("timeout", OPTION_DURATION, timeout_ns, "TIME",
           "what to do when it hasn't switched over by then says --on-timeout (none)"),
    {.name = "on-timeout",
     .kind = OPTION_CHOICE,
     .offset = offsetof(struct migrate_options, on_timeout),
     .argument = "cancel|force",
     .help = "cancel the migration, or switch over however long it takes (cancel)",
     .choices = on_timeout_names},
    OPTION("throttle", OPTION_NUMBER, throttle, "PERCENT",
           "slow the guest by up to this much when it writes faster than the link carries (0)"),
    OPTION("token", OPTION_TEXT, token, "TEXT", "what `ferry receive` printed, when it wants one"),
    OPTION("tls-cert", OPTION_TEXT, tls_certificate, "FILE",
           "for tls://: this host's certificate (PEM)"),
    OPTION("tls-key", OPTION_TEXT, tls_key, "FILE", "its key"),
    OPTION("tls-ca", OPTION_TEXT, tls_ca, "FILE", "who must have signed the target's certificate"),
    OPTION("tls-name", OPTION_TEXT, tls_name, "NAME",
           "for which host that certificate must be (any)"),
    OPTION("detach", OPTION_FLAG, detach, NULL, "start it and return; --status tells how it goes"),
    OPTION("cancel", OPTION_FLAG, cancel, NULL, "cancel the migration that is under way"),
    OPTION("status", OPTION_FLAG, status, NULL, "print how it goes, or how the last one ended"),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

static bool has_phase(const json_t *status, const char *phase)
{
    return strcmp(output_text_of(status, "phase"), phase) == 0;
}

// One line that overwrites itself on a terminal, a line for each round or phase elsewhere.
static void print_progress(const json_t *status, bool terminal)
{
    static char last[64];
    char mark[64], sent[32], left[32], rate[32], dirty[32], time[32] = "", line[256];
    uint64_t bandwidth = output_number_of(status, "bytes_per_second");
    uint64_t remaining = output_number_of(status, "remaining_bytes");
    snprintf(mark, sizeof(mark), "%s %" PRIu64, output_text_of(status, "phase"),
             output_number_of(status, "round"));
    if (!terminal && strcmp(mark, last) == 0)
        return;
    snprintf(last, sizeof(last), "%s", mark);
    if (bandwidth && remaining)
        snprintf(time, sizeof(time), " (%" PRIu64 " s)", (remaining + bandwidth - 1) / bandwidth);
    snprintf(
        line, sizeof(line),
        "%-10s round %-3" PRIu64 " sent %s, left %s%s, %s/s, guest writes %s/s, downtime %" PRIu64
        " ms",
        output_text_of(status, "phase"), output_number_of(status, "round"),
        units_format_size(output_number_of(status, "bytes"), sent, sizeof(sent)),
        units_format_size(remaining, left, sizeof(left)), time,
        units_format_size(bandwidth, rate, sizeof(rate)),
        units_format_size(output_number_of(status, "dirty_bytes_per_second"), dirty, sizeof(dirty)),
        output_number_of(status, "expected_downtime_us") / 1000);
    fprintf(stderr, terminal ? "\r\033[K%s" : "%s\n", line);
    fflush(stderr);
}

static int print_end(const char *name, const json_t *status, int format)
{
    bool moved = has_phase(status, "moved");
    if (format == OUTPUT_JSON) {
        output_json_line(status);
    } else if (moved) {
        char sent[32];
        printf("%s moved to %s: %s in %" PRIu64 ".%03" PRIu64 " s, the guest stood for %" PRIu64
               ".%03" PRIu64 " ms\n",
               name, output_text_of(status, "target"),
               units_format_size(output_number_of(status, "bytes"), sent, sizeof(sent)),
               output_number_of(status, "elapsed_ms") / 1000,
               output_number_of(status, "elapsed_ms") % 1000,
               output_number_of(status, "downtime_us") / 1000,
               output_number_of(status, "downtime_us") % 1000);
    }
    if (!moved)
        fprintf(stderr, "ferry: migrate: %s: %s\n", name, output_text_of(status, "error"));
    return moved ? STATUS_OK : STATUS_FAILED;
}

// Waits for the event "migration"; shows progress meanwhile; hands Ctrl-C on.
static int watch(struct control_client *client, json_t **end, struct error *err)
{
    bool terminal = isatty(STDERR_FILENO);
    int r;
    for (;;) {
        json_t *event = NULL, *status = NULL;
        r = control_client_next_event(client, PROGRESS_MS, &event, err);
        if (r == 0 && strcmp(output_text_of(event, "event"), "migration") == 0) {
            *end = json_incref(json_object_get(event, "data"));
            json_decref(event);
            break;
        }
        json_decref(event);
        if (r < 0 && r != -ETIMEDOUT && r != -EINTR)
            break;
        if (interrupted) {
            interrupted = 0;
            struct error ignored = {0};
            if (control_client_call(client, "migrate.cancel", NULL, NULL, 0, ACCESS_TIMEOUT_MS,
                                    NULL, &ignored) < 0)
                fprintf(stderr, "ferry: migrate: %s\n", ignored.message);
        }
        if (control_client_call(client, "migrate.status", NULL, NULL, 0, ACCESS_TIMEOUT_MS, &status,
                                err) == 0)
            print_progress(status, terminal);
        json_decref(status);
    }
    if (terminal)
        fprintf(stderr, "\r\033[K");
    return r;
}

// Opens the three files; the machine reads them. Their number, or -errno with a sentence.
static int open_tls(const struct migrate_options *o, int fds[3], struct error *err)
{
    const char *const paths[3] = {o->tls_certificate, o->tls_key, o->tls_ca};
    for (unsigned i = 0; i < 3; i++) {
        fds[i] = open(paths[i], O_RDONLY | O_CLOEXEC);
        if (fds[i] >= 0)
            continue;
        error_set_errno(err, errno, "opening '%s'", paths[i]);
        while (i > 0) {
            close(fds[--i]);
            fds[i] = -1;
        }
        return -err->code;
    }
    return 3;
}

// What the move does to the guest's connections, before anything is moved.
static void warn_of_networks(const char *name, const json_t *status)
{
    size_t i;
    json_t *id;
    json_array_foreach(json_object_get(status, "breaks_connections_of"), i, id)
        fprintf(stderr,
                "ferry: migrate: %s: connections through %s break at the move: it is a network of "
                "kind 'user', whose passt is a process of this host\n",
                name, json_string_value(id) ? json_string_value(id) : "?");
}

static int start_machine(struct control_client *client, const char *name, const char *place,
                         const struct migrate_options *o, bool tls, struct error *err)
{
    int fds[3 + MOVE_SOCKETS_LIMIT];
    json_t *status = NULL;
    int opened = tls ? open_tls(o, fds, err) : 0;
    unsigned fd_count = opened > 0 ? (unsigned)opened : 0;
    if (opened < 0)
        return -err->code;
    json_t *params = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "to", place, "token", o->token ? o->token : "",
        "downtime_ns", (json_int_t)o->downtime_ns, "timeout_ns", (json_int_t)o->timeout_ns,
        "bandwidth", (json_int_t)o->bandwidth, "streams", (json_int_t)o->streams, "throttle_limit",
        (json_int_t)o->throttle * 10, "force_on_timeout", o->on_timeout == ON_TIMEOUT_FORCE);
    if (tls)
        json_object_set_new(params, "tls",
                            json_pack("{s:{s:i}, s:{s:i}, s:{s:i}, s:s}", "certificate", "fd", 0,
                                      "key", "fd", 1, "ca", "fd", 2, "name",
                                      o->tls_name ? o->tls_name : ""));
    // How many streams are too many is the machine's to say.
    unsigned streams = o->streams < MOVE_SOCKETS_LIMIT - MOVE_SOCKETS_BESIDE_DATA
                           ? (unsigned)o->streams
                           : MOVE_SOCKETS_LIMIT - MOVE_SOCKETS_BESIDE_DATA;
    int r = move_sockets_add(client, params, place, streams, fds, &fd_count, err);
    if (r == 0)
        r = control_client_call(client, "migrate.start", json_incref(params), fds, fd_count,
                                ACCESS_TIMEOUT_MS, &status, err);
    warn_of_networks(name, status);
    json_decref(status);
    json_decref(params);
    for (unsigned i = 0; i < fd_count; i++)
        close(fds[i]);
    return r;
}

// The machine has moved: once its process here has ended its name is free, and it may come back.
static void await_process(int pid_fd)
{
    struct pollfd ended = {.fd = pid_fd, .events = POLLIN};
    poll(&ended, 1, END_MS); // who still isn't there then is told so by what comes next
}

static int start(struct control_client *client, const char *name, const char *to,
                 const struct migrate_options *o, struct error *err)
{
    // Names are looked up here: a machine waits for no name server.
    struct channel_address address;
    char place[sizeof(address.text)];
    int r = channel_address_parse(to, false, &address, err);
    if (r < 0)
        return r;
    channel_address_format(&address, place, sizeof(place));
    bool whole = o->tls_certificate && o->tls_key && o->tls_ca;
    if (address.tls && !whole)
        return error_set(err, EINVAL,
                         "'%s' wants --tls-cert, --tls-key and --tls-ca: both sides show a "
                         "certificate",
                         to);
    if (!address.tls && (o->tls_certificate || o->tls_key || o->tls_ca || o->tls_name))
        return error_set(err, EINVAL, "certificates are for tls://, not for '%s'", to);
    json_t *end = NULL;
    int pid_fd = (int)syscall(SYS_pidfd_open, control_client_peer_pid(client), 0);
    r = control_client_call(client, "events.subscribe", NULL, NULL, 0, ACCESS_TIMEOUT_MS, NULL,
                            err);
    if (r == 0)
        r = start_machine(client, name, place, o, address.tls, err);
    if (r == 0 && !o->detach) {
        struct sigaction action = {.sa_handler = on_interrupt};
        sigaction(SIGINT, &action, NULL);
        r = watch(client, &end, err);
        if (r < 0)
            error_prefix(err, "the machine ended during its migration");
        else if (has_phase(end, "moved"))
            await_process(pid_fd);
    }
    if (pid_fd >= 0)
        close(pid_fd);
    if (r < 0 || o->detach)
        return r;
    int status = print_end(name, end, o->common.format);
    json_decref(end);
    *err = (struct error){0}; // what there was to say was printed
    return status == STATUS_OK ? 0 : -ECANCELED;
}

static int print_status(struct control_client *client, int format, struct error *err)
{
    json_t *status = NULL;
    int r = control_client_call(client, "migrate.status", NULL, NULL, 0, ACCESS_TIMEOUT_MS, &status,
                                err);
    if (r == 0 && format == OUTPUT_JSON)
        output_json(status);
    else if (r == 0)
        output_flat(status);
    json_decref(status);
    return r;
}

static int run_with(struct control_client *client, char **arguments,
                    const struct migrate_options *o, struct error *err)
{
    if (o->cancel)
        return control_client_call(client, "migrate.cancel", NULL, NULL, 0, ACCESS_TIMEOUT_MS, NULL,
                                   err);
    if (o->status)
        return print_status(client, o->common.format, err);
    return start(client, arguments[0], arguments[1], o, err);
}

static int migrate(int argc, char **argv)
{
    struct migrate_options o = {.downtime_ns = 10 * NSEC_PER_MSEC, .streams = 1};
    struct error err = {0};
    char **arguments;
    int status = options_parse(&command_migrate, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    bool wants_target = !o.cancel && !o.status;
    if (wants_target != (arguments[1] != NULL)) {
        fprintf(stderr, "ferry: migrate: %s\n",
                wants_target ? "say where to: ferry migrate NAME tcp://HOST:PORT"
                             : "--cancel and --status take only the NAME");
        return STATUS_USAGE;
    }
    struct runtime_dir dir;
    struct control_client *client;
    if (runtime_dir_open(&dir, o.common.runtime_dir, &err) != 0)
        return machine_access_fail(&command_migrate, &err);
    int r = machine_access_connect(&dir, arguments[0], ACCESS_TIMEOUT_MS, &client, &err);
    if (r == 0) {
        r = run_with(client, arguments, &o, &err);
        control_client_close(client);
    }
    runtime_dir_close(&dir);
    if (r < 0 && err.code)
        return machine_access_fail(&command_migrate, &err);
    return r < 0 ? STATUS_FAILED : STATUS_OK;
}

const struct subcommand command_migrate = {
    .name = "migrate",
    .arguments = "NAME [tcp://HOST:PORT|tls://HOST:PORT]",
    .summary = "moves a running machine to another host, where `ferry receive` waits",
    .details =
        "The migration belongs to the machine: this command only watches it. Ctrl-C cancels until\n"
        "the switch. Whatever goes wrong before that leaves the machine running here.",
    .options = options,
    .least = 1,
    .most = 2,
    .run = migrate,
};
