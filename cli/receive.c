// ferry receive: waits for a machine that another host sends, and becomes it.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/ids.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/lease_option.h"
#include "cli/machine_process.h"
#include "migrate/target.h"

struct receive_options {
    struct common_options common;
    const char *listen, *token, *tls_certificate, *tls_key, *tls_ca, *tls_peer;
    struct lease_option lease;
    bool detach, keep, insecure;
    int sandbox;
};

static int set_lease(void *values, const char *text, struct error *err)
{
    return lease_option_parse(&((struct receive_options *)values)->lease, text, err);
}

static const struct option_spec options[] = {
    {.name = "listen",
     .letter = 'l',
     .kind = OPTION_TEXT,
     .offset = offsetof(struct receive_options, listen),
     .argument = "tcp://ADDRESS:PORT|tls://...",
     .help = "where to wait; port 0 takes a free one and prints it"},
    {.name = "tls-cert",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct receive_options, tls_certificate),
     .argument = "FILE",
     .help = "for tls://: this host's certificate (PEM)"},
    {.name = "tls-key",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct receive_options, tls_key),
     .argument = "FILE",
     .help = "its key"},
    {.name = "tls-ca",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct receive_options, tls_ca),
     .argument = "FILE",
     .help = "who must have signed the source's certificate"},
    {.name = "tls-peer",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct receive_options, tls_peer),
     .argument = "sha256:DIGEST|id:ID",
     .help = "for tls://: the one certificate, or host of a cluster, to receive from"},
    {.name = "token",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct receive_options, token),
     .argument = "TEXT|auto",
     .help = "a secret for one machine that its source must show; auto makes one and prints it"},
    {.name = "insecure",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct receive_options, insecure),
     .help = "let anybody who reaches a non-loopback address send a machine"},
    {.name = "keep",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct receive_options, keep),
     .help = "stay for further machines; each runs detached"},
    {.name = "detach",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct receive_options, detach),
     .help = "return once it listens"},
    {.name = "lease",
     .kind = OPTION_CALL,
     .argument = LEASE_OPTION_ARGUMENT,
     .call = set_lease,
     .help = LEASE_OPTION_HELP},
    OPTION_SANDBOX(struct receive_options, sandbox),
    OPTIONS_RUNTIME_DIR,
    {0},
};

static int make_token(char *out, size_t size, struct error *err)
{
    uint8_t bytes[16];
    int rc = random_bytes(bytes, sizeof(bytes));
    if (rc < 0)
        return error_set_errno(err, -rc, "making a token");
    for (size_t i = 0; i < sizeof(bytes) && 2 * i + 2 < size; i++)
        snprintf(out + 2 * i, size - 2 * i, "%02x", bytes[i]);
    return 0;
}

static int load_tls(const struct receive_options *o, struct migration_target_params *params,
                    struct error *err)
{
    bool whole = o->tls_certificate && o->tls_key && o->tls_ca;
    if (o->tls_peer && !tls_subject_text_is_valid(o->tls_peer))
        return error_set(err, EINVAL, "--tls-peer is sha256:DIGEST or id:ID, not '%s'",
                         o->tls_peer);
    if (o->tls_peer && !params->listen.tls)
        return error_set(err, EINVAL, "--tls-peer is for tls://, not for '%s'", o->listen);
    if (!params->listen.tls)
        return o->tls_certificate || o->tls_key || o->tls_ca
                   ? error_set(err, EINVAL, "certificates are for tls://, not for '%s'", o->listen)
                   : 0;
    if (!whole)
        return error_set(err, EINVAL,
                         "'%s' wants --tls-cert, --tls-key and --tls-ca: both sides show a "
                         "certificate",
                         o->listen);
    struct tls_credentials *tls = NULL;
    int rc = tls_credentials_load(&tls, tls_source(o->tls_certificate), tls_source(o->tls_key),
                                  tls_source(o->tls_ca), err);
    params->tls = tls; // for as long as the process
    params->tls_peer = o->tls_peer;
    return rc;
}

static int prepare(const struct receive_options *o, struct migration_target_params *params,
                   struct error *err)
{
    if (!o->listen)
        return error_set(err, EINVAL, "say where to wait: --listen tcp://ADDRESS:PORT");
    int rc = channel_address_parse(o->listen, true, &params->listen, err);
    if (rc < 0)
        return rc;
    rc = load_tls(o, params, err);
    if (rc < 0)
        return rc;
    if (o->token && strcmp(o->token, "auto") == 0)
        return make_token(params->token, sizeof(params->token), err);
    if (o->token && (!o->token[0] || strlen(o->token) >= sizeof(params->token)))
        return error_set(err, EINVAL, "--token must have 1 to %zu characters",
                         sizeof(params->token) - 1);
    snprintf(params->token, sizeof(params->token), "%s", o->token ? o->token : "");
    if (!params->token[0] && !params->tls && !o->insecure &&
        !channel_address_is_loopback(&params->listen))
        return error_set(err, EINVAL,
                         "'%s' can be reached by others: listen at tls://, or want a secret of "
                         "them (--token auto), or say --insecure",
                         o->listen);
    return 0;
}

static void print_place(const struct migration_target_params *params)
{
    char place[sizeof(params->listen.text)];
    channel_address_format(&params->listen, place, sizeof(place));
    printf("listening at %s\n", place);
    if (params->token[0])
        printf("token %s\n", params->token);
    fflush(stdout);
}

static int become_machine(struct migration_target *target, const char *name,
                          const struct receive_options *o, bool foreground)
{
    struct error err = {0};
    struct machine_config *config = migration_target_config(target);
    struct process_options process = {.runtime_dir = o->common.runtime_dir,
                                      .foreground = foreground,
                                      .incoming = target,
                                      .lease = lease_option_params(&o->lease),
                                      .sandbox_off = o->sandbox == SANDBOX_OFF};
    if (name)
        snprintf(config->name, sizeof(config->name), "%s", name);
    int status = STATUS_FAILED;
    if (lease_option_apply(&o->lease, config, &err) < 0)
        migration_target_refuse(target, &err);
    else
        status = machine_process_run(config, &process, &err);
    migration_target_free(target);
    if (err.code)
        fprintf(stderr, "ferry: receive: %s\n", err.message);
    return err.code ? STATUS_FAILED : status;
}

static int receive_one(int listen_fd, const struct migration_target_params *params,
                       const char *name, const struct receive_options *o, bool foreground)
{
    struct migration_target *target;
    struct error err = {0};
    if (migration_target_accept(&target, listen_fd, params, &err) < 0) {
        fprintf(stderr, "ferry: receive: %s\n", err.message);
        return STATUS_FAILED;
    }
    return become_machine(target, name, o, foreground);
}

// Until somebody connects. A machine whose first deadline has passed would never run: so nobody has
// to end a receiver to which no source came.
static int await_source(int listen_fd, const struct lease_option *lease)
{
    const struct machine_lease_params *params = lease_option_params(lease);
    uint64_t until = lease->accept_ns ? lease->accept_ns : params ? params->deadline_ns : 0;
    while (until && until != LEASE_UNBOUNDED) {
        struct pollfd listening = {.fd = listen_fd, .events = POLLIN};
        if (clock_boottime_ns() >= until)
            return -ETIMEDOUT;
        if (poll(&listening, 1, 100) > 0)
            return 0;
    }
    return 0;
}

// Nothing of the caller's terminal, but for where it said to write.
static void leave_terminal(void)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    setsid();
    dup2(null_fd, STDIN_FILENO);
    dup2(null_fd, STDOUT_FILENO);
    dup2(null_fd, STDERR_FILENO);
    close(null_fd);
}

// Connections that can't be accepted stay there: without a pause this would be a busy loop until
// descriptors or memory are free again.
static void wait_after_refusal(int code)
{
    static bool told;
    if (code == EINTR || code == ECONNABORTED)
        return;
    if (!told)
        fprintf(stderr, "ferry: receive: accepting a connection: %s (tried again)\n",
                strerror(code));
    told = true;
    usleep(100000);
}

// One process an attempt, so that a bad stream ends nobody else's.
static int receive_many(int listen_fd, struct migration_target_params *params,
                        const struct receive_options *o)
{
    params->own_port = true;
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
        if (fd < 0) {
            wait_after_refusal(errno);
            continue;
        }
        pid_t child = fork();
        if (child == 0) {
            struct migration_target *target;
            struct error err = {0};
            close(listen_fd);
            int rc = migration_target_take(&target, -1, fd, params, &err);
            if (rc < 0 && rc != -EAGAIN)
                fprintf(stderr, "ferry: receive: %s\n", err.message);
            if (rc < 0)
                _exit(STATUS_FAILED);
            setsid();
            _exit(become_machine(target, NULL, o, false));
        }
        if (child < 0)
            fprintf(stderr, "ferry: receive: starting a process: %s\n", strerror(errno));
        close(fd);
    }
}

static int receive(int argc, char **argv)
{
    struct receive_options o = {0};
    struct migration_target_params params = {0};
    struct error err = {0};
    char **arguments;
    int status = options_parse(&command_receive, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    const char *name = arguments[0];
    if (name && !name_is_valid(name))
        error_set(&err, EINVAL, "'%s' is not a name for a machine", name);
    else if (o.lease.given && o.keep)
        error_set(&err, EINVAL, "--keep is for many machines, a lease is of one");
    else if (name && o.keep)
        error_set(&err, EINVAL, "--keep is for many machines, each with its own name");
    else if (o.token && o.keep)
        error_set(
            &err, EINVAL,
            "a token is good for one machine; with --keep listen at tls://, or say --insecure");
    else
        prepare(&o, &params, &err);
    if (err.code) {
        fprintf(stderr, "ferry: receive: %s\n", err.message);
        return STATUS_USAGE;
    }
    int listen_fd = channel_listen(&params.listen, &err);
    if (listen_fd < 0) {
        fprintf(stderr, "ferry: receive: %s\n", err.message);
        return STATUS_FAILED;
    }
    print_place(&params);
    if (o.detach) {
        fflush(NULL);
        pid_t child = fork();
        if (child != 0)
            return child < 0 ? STATUS_FAILED : STATUS_OK;
        leave_terminal();
    }
    signal(SIGPIPE, SIG_IGN);
    if (await_source(listen_fd, &o.lease) != 0) {
        fprintf(stderr, "ferry: receive: no source came before the lease's deadline\n");
        return STATUS_FAILED;
    }
    return o.keep ? receive_many(listen_fd, &params, &o)
                  : receive_one(listen_fd, &params, name, &o, !o.detach);
}

const struct subcommand command_receive = {
    .name = "receive",
    .arguments = "[NAME]",
    .summary = "waits for a machine that another host sends by `ferry migrate`, and runs it",
    .details = "The machine keeps its name, or gets NAME. Its disks and networks must be found "
               "here under the\n"
               "same paths and names. Without --detach the terminal is then the machine's console.",
    .options = options,
    .least = 0,
    .most = 1,
    .run = receive,
};
