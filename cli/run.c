// ferry run: makes a machine's description from options, and becomes the machine.
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/cpu_options.h"
#include "cli/detach.h"
#include "cli/lease_option.h"
#include "cli/machine_process.h"
#include "devices/block/block_nbd.h"

struct run_options {
    struct common_options common;
    struct machine_config config;
    struct lease_option lease;
    bool detach;
    int sandbox;
};

// ---- options ----

static int set_text(char **member, const char *text, struct error *err)
{
    char *copy = strdup(text);
    if (!copy)
        return error_set(err, ENOMEM, "out of memory");
    free(*member);
    *member = copy;
    return 0;
}

static int set_kernel(void *values, const char *text, struct error *err)
{
    return set_text(&((struct run_options *)values)->config.kernel, text, err);
}

static int set_initrd(void *values, const char *text, struct error *err)
{
    return set_text(&((struct run_options *)values)->config.initrd, text, err);
}

static int set_append(void *values, const char *text, struct error *err)
{
    return set_text(&((struct run_options *)values)->config.append, text, err);
}

static int set_cpu(void *values, const char *text, struct error *err)
{
    return set_text(&((struct run_options *)values)->config.cpu_model, text, err);
}

static int set_cpus(void *values, const char *text, struct error *err)
{
    return machine_config_parse_cpus(text, &((struct run_options *)values)->config.cpus, err);
}

static int add_disk(void *values, const char *text, struct error *err)
{
    return machine_config_add_disk(&((struct run_options *)values)->config, text, err);
}

static int add_net(void *values, const char *text, struct error *err)
{
    return machine_config_add_net(&((struct run_options *)values)->config, text, err);
}

static int set_lease(void *values, const char *text, struct error *err)
{
    return lease_option_parse(&((struct run_options *)values)->lease, text, err);
}

static int set_vsock(void *values, const char *text, struct error *err)
{
    return machine_config_set_vsock(&((struct run_options *)values)->config, text, err);
}

static struct cpu_settings *cpu_time_of(void *values)
{
    return &((struct run_options *)values)->config.cpu_time;
}

static int set_cpu_weight(void *values, const char *text, struct error *err)
{
    return cpu_settings_parse(cpu_time_of(values), "weight", text, err);
}

static int set_cpu_cap(void *values, const char *text, struct error *err)
{
    return cpu_settings_parse(cpu_time_of(values), "cap", text, err);
}

static int set_cpu_slice(void *values, const char *text, struct error *err)
{
    return cpu_settings_parse(cpu_time_of(values), "slice", text, err);
}

static int set_cpu_affinity(void *values, const char *text, struct error *err)
{
    return cpu_settings_parse(cpu_time_of(values), "affinity", text, err);
}

static int set_cpu_backend(void *values, const char *text, struct error *err)
{
    return cpu_options_backend(cpu_time_of(values), text, err);
}

static int set_cpu_group(void *values, const char *text, struct error *err)
{
    return cpu_settings_parse_group(cpu_time_of(values), text, err);
}

static int read_config(void *values, const char *path, struct error *err)
{
    return machine_config_from_file(&((struct run_options *)values)->config, path, err);
}

#define IN_CONFIG(member) offsetof(struct run_options, config.member)

static const struct option_spec run_options[] = {
    {.name = "kernel",
     .letter = 'k',
     .kind = OPTION_CALL,
     .argument = "FILE",
     .call = set_kernel,
     .help = "kernel image: bzImage, or ELF with a PVH note, or multiboot"},
    {.name = "initrd",
     .letter = 'i',
     .kind = OPTION_CALL,
     .argument = "FILE",
     .call = set_initrd,
     .help = "initial RAM disk (the module of a multiboot kernel)"},
    {.name = "append",
     .letter = 'a',
     .kind = OPTION_CALL,
     .argument = "TEXT",
     .call = set_append,
     .help = "the kernel's command line"},
    {.name = "cpus",
     .letter = 'c',
     .kind = OPTION_CALL,
     .argument = "N",
     .call = set_cpus,
     .help = "virtual CPUs, 1 to 64 (1)"},
    {.name = "memory",
     .letter = 'm',
     .kind = OPTION_SIZE,
     .offset = IN_CONFIG(memory),
     .argument = "SIZE",
     .help = "RAM (512M)"},
    {.name = "cpu",
     .kind = OPTION_CALL,
     .argument = "MODEL",
     .call = set_cpu,
     .help = "host, or x86-64-v2, v3, v4; with ,+feature and ,-feature behind (host)"},
    CPU_OPTIONS(set_cpu_weight, set_cpu_cap, set_cpu_slice, set_cpu_affinity, set_cpu_backend,
                set_cpu_group),
    {.name = "disk",
     .letter = 'd',
     .kind = OPTION_CALL,
     .argument = "FILE[,ro][,cache=C][,LIMIT]...",
     .call = add_disk,
     .help = "a raw disk image, or nbd://HOST[:PORT][/EXPORT]; cache: writeback, none (past the "
             "host's page cache) or unsafe "
             "(flushes do nothing); LIMIT: bps=SIZE, iops=N (each a second), burst=TIME (of "
             "both, that may be saved up: 100ms); can be repeated"},
    {.name = "net",
     .letter = 'n',
     .kind = OPTION_CALL,
     .argument = "KIND[,...][,LIMIT]...",
     .call = add_net,
     .help = "a network card: tap=IF[,queues=N]; user[,tcp=HOST:GUEST][,udp=...] through passt, "
             "without rights; socket=PATH[,listen] to another machine; or none. Each may have "
             "mac=ADDRESS, and LIMIT as for disks, for each direction; can be repeated (none)"},
    {.name = "balloon",
     .kind = OPTION_FLAG,
     .offset = IN_CONFIG(balloon),
     .help = "a balloon: `ferry balloon` takes memory back, and free pages go to the host"},
    {.name = "vsock",
     .kind = OPTION_CALL,
     .argument = "cid=N,socket=PATH",
     .call = set_vsock,
     .help = "connections between guest and host: clients of PATH send \"CONNECT PORT\", the "
             "guest's reach PATH_PORT"},
    {.name = "config",
     .kind = OPTION_CALL,
     .argument = "FILE",
     .call = read_config,
     .help = "a description as `ferry inspect` prints it; options behind it change it"},
    {.name = "detach",
     .letter = 'D',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct run_options, detach),
     .help = "return when the machine runs, and leave it running"},
    {.name = "on-reboot",
     .kind = OPTION_CHOICE,
     .offset = IN_CONFIG(on_reboot),
     .argument = "restart|exit",
     .choices = machine_on_reboot_names,
     .help = "what a reboot of the guest does (restart)"},
    {.name = "on-triple-fault",
     .kind = OPTION_CHOICE,
     .offset = IN_CONFIG(on_triple_fault),
     .argument = "crash|reset",
     .choices = machine_on_triple_fault_names,
     .help = "what a triple fault does (crash)"},
    {.name = "on-panic",
     .kind = OPTION_CHOICE,
     .offset = IN_CONFIG(on_panic),
     .argument = "crash|reset|pause|ignore",
     .choices = machine_on_panic_names,
     .help = "what a panic of the guest's kernel does, if it tells of it by pvpanic (crash)"},
    {.name = "debug-exit",
     .kind = OPTION_FLAG,
     .offset = IN_CONFIG(debug_exit),
     .help = "test devices; the guest ends the run through port 0xf4"},
    {.name = "force",
     .kind = OPTION_FLAG,
     .offset = IN_CONFIG(force),
     .help = "start a stock kernel although this host's KVM emulates ring 0"},
    {.name = "lease",
     .kind = OPTION_CALL,
     .argument = LEASE_OPTION_ARGUMENT,
     .call = set_lease,
     .help = LEASE_OPTION_HELP},
    OPTION_SANDBOX(struct run_options, sandbox),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

// ---- from options to a complete description ----

// So that what inspect prints means the same everywhere.
static int make_absolute(char **path, struct error *err)
{
    if (!*path || **path == '/' || !**path)
        return 0;
    char here[PATH_MAX], *whole;
    if (!getcwd(here, sizeof(here)))
        return error_set_errno(err, errno, "the current directory");
    if (asprintf(&whole, "%s/%s", here, *path) < 0)
        return error_set(err, ENOMEM, "out of memory");
    free(*path);
    *path = whole;
    return 0;
}

static int complete_config(struct run_options *o, const char *name, struct error *err)
{
    static const struct uuid none;
    struct machine_config *config = &o->config;
    int r = make_absolute(&config->kernel, err);
    if (!r)
        r = make_absolute(&config->initrd, err);
    if (!r)
        r = make_absolute(&config->vsock.socket, err);
    for (unsigned i = 0; i < config->net_count && !r; i++)
        if (config->nets[i].kind == NET_SOCKET)
            r = make_absolute(&config->nets[i].interface, err);
    for (unsigned i = 0; i < config->disk_count && !r; i++)
        if (!block_nbd_is_address(config->disks[i].path))
            r = make_absolute(&config->disks[i].path, err);
    if (r)
        return r;
    if (name && strcmp(name, config->name) != 0) {
        if (!name_is_valid(name))
            return error_set(err, EINVAL, "'%s' is not a machine name ([a-z0-9][a-z0-9._-]{0,39})",
                             name);
        snprintf(config->name, sizeof(config->name), "%s", name);
        config->uuid = none; // another name, another machine
    }
    r = lease_option_apply(&o->lease, config, err);
    if (r)
        return r;
    if (uuid_equal(&config->uuid, &none) && uuid_generate_random(&config->uuid) != 0)
        return error_set(err, EIO, "this host gives no random bytes for a UUID");
    if (*config->name)
        return machine_config_check(config, err);
    // The name is made up when its directory is; everything else is checked now.
    snprintf(config->name, sizeof(config->name), "vm");
    r = machine_config_check(config, err);
    config->name[0] = 0;
    return r;
}

// ---- detached ----

static int run_detached(struct run_options *o)
{
    struct process_options options = {.runtime_dir = o->common.runtime_dir,
                                      .lease = lease_option_params(&o->lease),
                                      .sandbox_off = o->sandbox == SANDBOX_OFF};
    return detach_machine(&o->config, &options, o->common.format, &command_run);
}

static int run_foreground(struct run_options *o)
{
    struct error err = {0};
    struct process_options options = {.runtime_dir = o->common.runtime_dir,
                                      .foreground = true,
                                      .lease = lease_option_params(&o->lease),
                                      .sandbox_off = o->sandbox == SANDBOX_OFF};
    int status = machine_process_run(&o->config, &options, &err);
    if (err.code)
        fprintf(stderr, "ferry: run: %s\n", err.message);
    return status;
}

static int run(int argc, char **argv)
{
    struct run_options o = {0};
    struct error err = {0};
    char **arguments;
    if (machine_config_init(&o.config) != 0) {
        fprintf(stderr, "ferry: run: out of memory\n");
        return STATUS_FAILED;
    }
    int status = options_parse(&command_run, argc, argv, &o, &arguments);
    if (status == OPTIONS_GO && complete_config(&o, arguments[0], &err) != 0) {
        fprintf(stderr, "ferry: run: %s\n", err.message);
        status = STATUS_USAGE;
    }
    if (status == OPTIONS_GO)
        status = o.detach ? run_detached(&o) : run_foreground(&o);
    machine_config_free(&o.config);
    return status;
}

const struct subcommand command_run = {
    .name = "run",
    .arguments = "[NAME]",
    .summary = "starts a machine",
    .details =
        "In the foreground the terminal is the guest's console: Ctrl-] opens a menu. SIGINT and\n"
        "SIGTERM press the power button, a second one kills; SIGHUP and SIGQUIT kill.\n"
        "Without a NAME the machine gets one. The machine ends with the command; with --detach "
        "the\n"
        "command prints the name and returns.\n\n"
        "Exit status: 0 the guest switched itself off, 1 failed or killed, 2 wrong usage, 4 the\n"
        "guest crashed. With --debug-exit odd statuses are the guest's, (value << 1) | 1, and all\n"
        "failures of ferry's own are 2.",
    .options = run_options,
    .least = 0,
    .most = 1,
    .run = run,
};
