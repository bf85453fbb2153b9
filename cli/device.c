// ferry device add|remove|list|resize
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"
#include "devices/block/block_image.h"
#include "devices/net/net_tap.h"
#include "vmm/disk_epoch.h"
#include "vmm/machine.h"
#include "vmm/machine_limits.h"

enum { REMOVE_TIMEOUT_S = 30 };

struct device_options {
    struct common_options common;
    struct machine_config config; // of add: one disk or network
    uint64_t timeout_ns;
    bool force;
};

// Connects to the machine that the first argument names and runs act(). Returns the exit status.
static int with_machine(const struct subcommand *command, const struct device_options *o,
                        char **arguments,
                        int (*act)(struct control_client *client, const struct device_options *o,
                                   char **arguments, struct error *err))
{
    struct error err = {0};
    struct runtime_dir dir;
    struct control_client *client;
    if (runtime_dir_open(&dir, o->common.runtime_dir, &err) != 0)
        return machine_access_fail(command, &err);
    int r = machine_access_connect(&dir, arguments[0], ACCESS_TIMEOUT_MS, &client, &err);
    if (r == 0) {
        r = act(client, o, arguments, &err);
        if (r)
            error_prefix(&err, "'%s'", arguments[0]);
        control_client_close(client);
    }
    runtime_dir_close(&dir);
    return r ? machine_access_fail(command, &err) : STATUS_OK;
}

// ---- add ----

static int set_disk(void *values, const char *text, struct error *err)
{
    return machine_config_add_disk(&((struct device_options *)values)->config, text, err);
}

static int set_net(void *values, const char *text, struct error *err)
{
    return machine_config_add_net(&((struct device_options *)values)->config, text, err);
}

static const struct option_spec add_options[] = {
    {.name = "disk",
     .letter = 'd',
     .kind = OPTION_CALL,
     .argument = "FILE[,ro][,cache=C][,LIMIT]...",
     .call = set_disk,
     .help = "a disk, as for `ferry run`"},
    {.name = "net",
     .letter = 'n',
     .kind = OPTION_CALL,
     .argument = "KIND[,...][,LIMIT]...",
     .call = set_net,
     .help = "a network, as for `ferry run`"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

// The id is the machine's to give.
static void forget_place(json_t *object)
{
    json_object_del(object, "id");
    json_object_del(object, "slot");
}

static int ask_for_disk(const struct device_options *o, json_t **params, int *fds, unsigned *count,
                        struct error *err)
{
    const struct disk_config *disk = &o->config.disks[0];
    if (!disk->read_only && disk_epoch_exists(disk->path))
        return error_set(err, EPERM,
                         "disk image '%s' is that of a machine which a cluster manages, as its "
                         "'.epoch' file says",
                         disk->path);
    fds[0] = machine_files_open_disk(disk, err);
    if (fds[0] < 0)
        return fds[0];
    *count = 1;
    json_t *object = machine_config_disk_json(&o->config, 0);
    forget_place(object);
    char whole[PATH_MAX]; // so that the description means the same everywhere
    if (realpath(disk->path, whole))
        json_object_set_new(object, "path", json_string(whole));
    json_object_set_new(object, "file", json_pack("{s:i}", "fd", 0));
    *params = json_pack("{s:o}", "disk", object);
    return 0;
}

static int ask_for_net(const struct device_options *o, json_t **params, int *fds, unsigned *count,
                       struct error *err)
{
    const struct net_config *net = &o->config.nets[0];
    if (net->kind == NET_NONE)
        return error_set(err, EINVAL, "'none' is no network that can be added");
    int rc = machine_files_open_net(net, fds, err);
    if (rc < 0)
        return rc;
    *count = net->queues;
    json_t *object = machine_config_net_json(&o->config, 0), *files = json_array();
    forget_place(object);
    for (unsigned i = 0; i < *count; i++)
        json_array_append_new(files, json_pack("{s:i}", "fd", (int)i));
    json_object_set_new(object, "files", files);
    uint16_t mtu = net->kind == NET_TAP ? net_tap_mtu(net->interface) : 0;
    if (mtu)
        json_object_set_new(object, "mtu", json_integer(mtu));
    *params = json_pack("{s:o}", "net", object);
    return 0;
}

static int add_device(struct control_client *client, const struct device_options *o,
                      char **arguments, struct error *err)
{
    int fds[MACHINE_NET_QUEUES_LIMIT];
    unsigned count = 0;
    json_t *params = NULL, *result = NULL;
    int r = o->config.disk_count ? ask_for_disk(o, &params, fds, &count, err)
                                 : ask_for_net(o, &params, fds, &count, err);
    if (r == 0)
        r = control_client_call(client, "device.add", params, fds, count, ACCESS_TIMEOUT_MS,
                                &result, err);
    while (count > 0)
        close(fds[--count]);
    if (r == 0 && o->common.format == OUTPUT_JSON)
        output_json_line(result);
    else if (r == 0)
        printf("%s\n", json_string_value(json_object_get(result, "id")));
    json_decref(result);
    return r;
}

static int device_add(int argc, char **argv);
static const struct subcommand add_command = {
    .name = "device add",
    .arguments = "NAME",
    .summary = "adds a disk or a network to a running machine, and prints its id",
    .options = add_options,
    .least = 1,
    .most = 1,
    .run = device_add,
};

static int device_add(int argc, char **argv)
{
    struct device_options o = {0};
    char **arguments;
    if (machine_config_init(&o.config) != 0)
        return STATUS_FAILED;
    int status = options_parse(&add_command, argc, argv, &o, &arguments);
    if (status == OPTIONS_GO && o.config.disk_count + o.config.net_count != 1) {
        fprintf(stderr, "ferry: device add: give one --disk or one --net\n");
        status = STATUS_USAGE;
    }
    if (status == OPTIONS_GO)
        status = with_machine(&add_command, &o, arguments, add_device);
    machine_config_free(&o.config);
    return status;
}

// ---- remove ----

static const struct option_spec remove_options[] = {
    {.name = "timeout",
     .letter = 't',
     .kind = OPTION_DURATION,
     .offset = offsetof(struct device_options, timeout_ns),
     .argument = "TIME",
     .help = "how long the guest may take to give it up (30s)"},
    {.name = "force",
     .letter = 'f',
     .kind = OPTION_FLAG,
     .offset = offsetof(struct device_options, force),
     .help = "don't ask the guest: what it hasn't written is lost"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

// Until the event comes that the device has gone. 0; -ETIMEDOUT with a sentence.
static int await_removal(struct control_client *client, const char *id, uint64_t timeout_ns,
                         struct error *err)
{
    uint64_t limit = clock_monotonic_ns() + timeout_ns;
    for (;;) {
        uint64_t now = clock_monotonic_ns();
        json_t *event = NULL;
        int r = now >= limit ? -ETIMEDOUT
                             : control_client_next_event(
                                   client, (int)((limit - now) / NSEC_PER_MSEC) + 1, &event, err);
        if (r == -ETIMEDOUT)
            return error_set(err, ETIMEDOUT,
                             "the guest hasn't given '%s' up yet (does it have a driver for ACPI "
                             "PCI hot plug?): it may still do so, or use --force",
                             id);
        const char *name = json_string_value(json_object_get(event, "event"));
        const json_t *data = json_object_get(event, "data");
        const char *which = json_string_value(json_object_get(data, "id"));
        bool found = r == 0 && name && which && strcmp(name, "device-removed") == 0 &&
                     strcmp(which, id) == 0;
        json_decref(event);
        if (r || found)
            return r;
    }
}

static int remove_device(struct control_client *client, const struct device_options *o,
                         char **arguments, struct error *err)
{
    const char *id = arguments[1];
    json_t *result = NULL;
    int r = control_client_call(client, "events.subscribe", NULL, NULL, 0, ACCESS_TIMEOUT_MS, NULL,
                                err);
    if (r == 0)
        r = control_client_call(client, "device.remove",
                                json_pack("{s:s, s:b}", "id", id, "force", o->force), NULL, 0,
                                ACCESS_TIMEOUT_MS, &result, err);
    if (r == 0 && !json_is_true(json_object_get(result, "removed")))
        r = await_removal(client, id, o->timeout_ns, err);
    json_decref(result);
    if (r)
        return r;
    if (o->common.format == OUTPUT_JSON) {
        json_t *gone = json_pack("{s:s, s:b}", "id", id, "removed", true);
        output_json_line(gone);
        json_decref(gone);
    } else {
        printf("%s: removed\n", id);
    }
    return 0;
}

static int device_remove(int argc, char **argv);
static const struct subcommand remove_command = {
    .name = "device remove",
    .arguments = "NAME ID",
    .summary = "takes a disk or a network away from a running machine",
    .details = "The guest is asked to give it up, and the command waits until it has.",
    .options = remove_options,
    .least = 2,
    .most = 2,
    .run = device_remove,
};

static int device_remove(int argc, char **argv)
{
    struct device_options o = {.timeout_ns = REMOVE_TIMEOUT_S * NSEC_PER_SEC};
    char **arguments;
    int status = options_parse(&remove_command, argc, argv, &o, &arguments);
    return status == OPTIONS_GO ? with_machine(&remove_command, &o, arguments, remove_device)
                                : status;
}

// ---- list ----

static const struct option_spec plain_options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

static void print_device(const json_t *device)
{
    const json_t *disk = json_object_get(device, "disk"), *net = json_object_get(device, "net");
    const char *where = json_string_value(json_object_get(disk, "path"));
    char size[32] = "";
    if (disk)
        units_format_size((uint64_t)json_integer_value(json_object_get(device, "size_bytes")), size,
                          sizeof(size));
    else
        where =
            json_string_value(json_object_get(net, json_object_get(net, "interface") ? "interface"
                                                   : json_object_get(net, "path")    ? "path"
                                                                                     : "kind"));
    const char *link = json_string_value(json_object_get(device, "link"));
    bool out = link && strcmp(link, "down") == 0;
    printf("%-10s %-15s %4d  %s%s%s%s\n", json_string_value(json_object_get(device, "id")),
           json_string_value(json_object_get(device, "kind")),
           (int)json_integer_value(json_object_get(device, "slot")), where ? where : "",
           *size ? "  " : "", size, out ? "  link down" : "");
}

static int list_devices(struct control_client *client, const struct device_options *o,
                        char **arguments, struct error *err)
{
    json_t *result = NULL, *device;
    size_t i;
    int r =
        control_client_call(client, "device.list", NULL, NULL, 0, ACCESS_TIMEOUT_MS, &result, err);
    const json_t *devices = json_object_get(result, "devices");
    if (r == 0 && o->common.format == OUTPUT_JSON) {
        output_json(devices);
    } else if (r == 0) {
        printf("%-10s %-15s %4s\n", "ID", "KIND", "SLOT");
        json_array_foreach(devices, i, device) print_device(device);
    }
    json_decref(result);
    return r;
}

static int device_list(int argc, char **argv);
static const struct subcommand list_command = {
    .name = "device list",
    .arguments = "NAME",
    .summary = "prints a machine's devices on the PCI bus",
    .options = plain_options,
    .least = 1,
    .most = 1,
    .run = device_list,
};

static int device_list(int argc, char **argv)
{
    struct device_options o = {0};
    char **arguments;
    int status = options_parse(&list_command, argc, argv, &o, &arguments);
    return status == OPTIONS_GO ? with_machine(&list_command, &o, arguments, list_devices) : status;
}

// ---- resize ----

static int resize_device(struct control_client *client, const struct device_options *o,
                         char **arguments, struct error *err)
{
    uint64_t size = 0;
    json_t *result = NULL;
    if (arguments[2] && (units_parse_size(arguments[2], &size) != 0 || size == 0))
        return error_set(err, EINVAL, "'%s' is not a size", arguments[2]);
    json_t *params = json_pack("{s:s}", "id", arguments[1]);
    if (size)
        json_object_set_new(params, "size", json_integer((json_int_t)size));
    int r = control_client_call(client, "device.resize", params, NULL, 0, ACCESS_TIMEOUT_MS,
                                &result, err);
    char text[32];
    if (r == 0 && o->common.format == OUTPUT_JSON)
        output_json_line(result);
    else if (r == 0)
        printf(
            "%s: %s\n", arguments[1],
            units_format_size((uint64_t)json_integer_value(json_object_get(result, "size_bytes")),
                              text, sizeof(text)));
    json_decref(result);
    return r;
}

static int device_resize(int argc, char **argv);
static const struct subcommand resize_command = {
    .name = "device resize",
    .arguments = "NAME ID [SIZE]",
    .summary = "makes a disk's image larger, or looks how large it has become; the guest is told",
    .options = plain_options,
    .least = 2,
    .most = 3,
    .run = device_resize,
};

static int device_resize(int argc, char **argv)
{
    struct device_options o = {0};
    char **arguments;
    int status = options_parse(&resize_command, argc, argv, &o, &arguments);
    return status == OPTIONS_GO ? with_machine(&resize_command, &o, arguments, resize_device)
                                : status;
}

// ---- set ----

static void print_limits(const char *id, const json_t *limits)
{
    char bytes[32] = "none", burst[32];
    uint64_t bps = (uint64_t)json_integer_value(json_object_get(limits, "bytes_per_second"));
    uint64_t ns = (uint64_t)json_integer_value(json_object_get(limits, "burst_ns"));
    json_int_t iops = json_integer_value(json_object_get(limits, "operations_per_second"));
    if (bps)
        units_format_size(bps, bytes, sizeof(bytes));
    snprintf(burst, sizeof(burst), "%llu ms",
             (unsigned long long)(ns ? ns / NSEC_PER_MSEC : RATE_LIMIT_BURST_MS));
    printf("%s: bytes a second %s, operations a second ", id, bytes);
    printf(iops ? "%lld" : "none", (long long)iops);
    printf(", burst %s\n", burst);
}

// One word of the command: a limit into `limits`, or what is done to the cable.
static int read_setting(const char *word, json_t *params, json_t *limits, struct error *err)
{
    if (strncmp(word, "link=", 5) != 0)
        return machine_limits_add_option(limits, word, err);
    if (strcmp(word + 5, "up") != 0 && strcmp(word + 5, "down") != 0)
        return error_set(err, EINVAL, "link: '%s' is neither up nor down", word + 5);
    json_object_set_new(params, "link", json_string(word + 5));
    return 0;
}

static void print_settings(const char *id, const json_t *result)
{
    const char *link = json_string_value(json_object_get(result, "link"));
    if (json_object_get(result, "limits"))
        print_limits(id, json_object_get(result, "limits"));
    if (link)
        printf("%s: link %s\n", id, link);
}

static int set_device(struct control_client *client, const struct device_options *o,
                      char **arguments, struct error *err)
{
    json_t *params = json_pack("{s:s}", "id", arguments[1]), *limits = json_object();
    json_t *result = NULL;
    int r = 0;
    for (char **word = arguments + 2; *word && r == 0; word++)
        r = read_setting(*word, params, limits, err);
    if (json_object_size(limits))
        json_object_set(params, "limits", limits);
    if (r == 0)
        r = control_client_call(client, "device.set", json_incref(params), NULL, 0,
                                ACCESS_TIMEOUT_MS, &result, err);
    json_decref(params);
    json_decref(limits);
    if (r == 0 && o->common.format == OUTPUT_JSON)
        output_json_line(result);
    else if (r == 0)
        print_settings(arguments[1], result);
    json_decref(result);
    return r;
}

static int device_set(int argc, char **argv);
static const struct subcommand set_command = {
    .name = "device set",
    .arguments = "NAME ID bps=SIZE|iops=N|burst=TIME|link=up|down...",
    .summary =
        "limits what a disk or a network may do from now on (0 takes a limit away), or plugs a "
        "network's cable in or out",
    .options = plain_options,
    .least = 3,
    .most = 6,
    .run = device_set,
};

static int device_set(int argc, char **argv)
{
    struct device_options o = {0};
    char **arguments;
    int status = options_parse(&set_command, argc, argv, &o, &arguments);
    return status == OPTIONS_GO ? with_machine(&set_command, &o, arguments, set_device) : status;
}

// ---- the command ----

static const struct subcommand *const subcommands[] = {&add_command, &remove_command, &list_command,
                                                       &resize_command, &set_command};
enum { SUBCOMMANDS = sizeof(subcommands) / sizeof(subcommands[0]), SKIP = sizeof("device ") - 1 };

static void print_help(FILE *out)
{
    fprintf(out, "Usage: ferry device COMMAND [ARGUMENT]... [OPTION]...\n%s.\n\n",
            command_device.summary);
    for (unsigned i = 0; i < SUBCOMMANDS; i++)
        fprintf(out, "  %-8s%s\n", subcommands[i]->name + SKIP, subcommands[i]->summary);
    fprintf(out, "\n`ferry device COMMAND --help` tells more.\n");
}

static int device(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    if (name && (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)) {
        print_help(stdout);
        return STATUS_OK;
    }
    for (unsigned i = 0; name && i < SUBCOMMANDS; i++)
        if (strcmp(subcommands[i]->name + SKIP, name) == 0)
            return subcommands[i]->run(argc - 1, argv + 1);
    if (name && name[0] == '-')
        fprintf(stderr, "ferry: device: option %s is not known\n", name);
    else if (name)
        fprintf(stderr, "ferry: device: '%s' is not one of its commands\n", name);
    else
        fprintf(stderr, "ferry: device: an argument is missing\n");
    print_help(stderr);
    return STATUS_USAGE;
}

static const struct option_spec no_options[] = {{0}};

const struct subcommand command_device = {
    .name = "device",
    .arguments = "add|remove|list|resize|set NAME ...",
    .summary = "adds, removes, lists, resizes and limits the devices of a running machine",
    .options = no_options,
    .least = 0,
    .most = UINT32_MAX,
    .run = device,
};
