// ferry vm create: a machine's description and what it asks of its host, from options and a file
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/daemon_access.h"
#include "cli/output.h"
#include "cli/vm.h"
#include "vmm/machine_config.h"

// ---- the description ----

// The list of that name, made when there is none; NULL without memory.
static json_t *list_in(json_t **object, const char *key)
{
    if (!*object)
        *object = json_object();
    json_t *list = json_object_get(*object, key);
    if (!list && json_object_set_new(*object, key, json_array()) == 0)
        list = json_object_get(*object, key);
    return list;
}

static int set_flag(void *values, const char *key, json_t *value)
{
    struct vm_options *o = values;
    if (!o->flags)
        o->flags = json_object();
    return json_object_set_new(o->flags, key, value) ? -ENOMEM : 0;
}

static int set_kernel(void *values, const char *text, struct error *err)
{
    return set_flag(values, "kernel", json_string(text));
}

static int set_initrd(void *values, const char *text, struct error *err)
{
    return set_flag(values, "initrd", json_string(text));
}

static int set_append(void *values, const char *text, struct error *err)
{
    return set_flag(values, "append", json_string(text));
}

static int set_memory(void *values, const char *text, struct error *err)
{
    return set_flag(values, "memory", json_string(text));
}

static int set_cpu(void *values, const char *text, struct error *err)
{
    return set_flag(values, "cpu", json_string(text));
}

static int set_cpus(void *values, const char *text, struct error *err)
{
    unsigned cpus;
    int r = machine_config_parse_cpus(text, &cpus, err);
    return r ? r : set_flag(values, "cpus", json_integer(cpus));
}

// By the parser of `ferry run`, into a description of nothing else.
static int add_device(void *values, const char *key, const char *text,
                      int (*add)(struct machine_config *config, const char *text,
                                 struct error *err),
                      struct error *err)
{
    struct machine_config config;
    struct vm_options *o = values;
    int r = machine_config_init(&config);
    if (!r)
        r = add(&config, text, err);
    json_t *object = r ? NULL : machine_config_to_json(&config);
    if (!r && json_array_extend(list_in(&o->flags, key), json_object_get(object, key)))
        r = error_set(err, ENOMEM, "out of memory");
    json_decref(object);
    machine_config_free(&config);
    return r;
}

static int add_disk(void *values, const char *text, struct error *err)
{
    return add_device(values, "disks", text, machine_config_add_disk, err);
}

static int add_net(void *values, const char *text, struct error *err)
{
    return add_device(values, "nets", text, machine_config_add_net, err);
}

// ---- what it asks of its host ----

static int add_wish(void *values, const char *key, json_t *value)
{
    struct vm_options *o = values;
    return json_array_append_new(list_in(&o->placement, key), value) ? -ENOMEM : 0;
}

static int add_label(void *values, const char *text, struct error *err)
{
    return add_wish(values, "labels", json_string(text));
}

static int add_host_label(void *values, const char *text, struct error *err)
{
    return add_wish(values, "host_labels", json_string(text));
}

static int add_pool(void *values, const char *text, struct error *err)
{
    return add_wish(values, "pools", json_string(text));
}

static int add_needed_net(void *values, const char *text, struct error *err)
{
    return add_wish(values, "nets", json_string(text));
}

// WHOM[,soft[=WEIGHT]]; ferryd says what is wrong with the rest.
static int add_rule(void *values, const char *direction, const char *text, struct error *err)
{
    const char *comma = strchr(text, ',');
    uint64_t weight = 1;
    size_t length = comma ? (size_t)(comma - text) : strlen(text);
    if (comma && strcmp(comma, ",soft") != 0 &&
        (strncmp(comma, ",soft=", 6) != 0 || units_parse_number(comma + 6, 1000, &weight)))
        return error_set(err, EINVAL, "'%s': a rule is KIND:NAME[,soft[=WEIGHT]]", text);
    json_t *rule = json_pack("{s:s%, s:b}", direction, text, length, "strict", !comma);
    if (comma)
        json_object_set_new(rule, "weight", json_integer((json_int_t)weight));
    return add_wish(values, "rules", rule);
}

static int add_with(void *values, const char *text, struct error *err)
{
    return add_rule(values, "with", text, err);
}

static int add_away(void *values, const char *text, struct error *err)
{
    return add_rule(values, "away", text, err);
}

// The file's own "placement" and the options' together: lists grow.
static int merge_placement(struct vm_options *o, json_t *from_file, struct error *err)
{
    const char *key;
    json_t *value;
    if (!from_file)
        return 0;
    if (!json_is_object(from_file))
        return error_set(err, EINVAL, "%s: \"placement\" must be an object", o->file);
    if (!o->placement)
        o->placement = json_object();
    json_object_foreach(from_file, key, value)
    {
        json_t *list = json_object_get(o->placement, key);
        if (list && json_is_array(value))
            json_array_extend(list, value);
        else
            json_object_set(o->placement, key, value);
    }
    return 0;
}

// What `ferry run --config` reads, and beside that "placement".
static int read_file(struct vm_options *o, struct machine_config *config, struct error *err)
{
    json_error_t why;
    json_t *object = json_load_file(o->file, JSON_REJECT_DUPLICATES, &why);
    if (!object && why.line < 1)
        return error_set(err, EINVAL, "%s", why.text);
    if (!object)
        return error_set(err, EINVAL, "%s, line %d: %s", o->file, why.line, why.text);
    int r = merge_placement(o, json_object_get(object, "placement"), err);
    const json_t *ha = json_object_get(object, "ha");
    if (!r && ha && !json_is_boolean(ha))
        r = error_set(err, EINVAL, "%s: \"ha\" must be true or false", o->file);
    o->no_ha = o->no_ha || json_is_false(ha);
    json_object_del(object, "placement");
    json_object_del(object, "ha");
    if (!r && machine_config_from_json(config, object, err))
        r = error_prefix(err, "%s", o->file);
    json_decref(object);
    return r;
}

// ---- all of it ----

// A file of a pool of the hosts: POOL:FILE, before any slash.
static bool names_pool(const char *path)
{
    const char *colon = strchr(path, ':'), *slash = strchr(path, '/');
    return colon && colon > path && (!slash || colon < slash);
}

// The hosts open what it names: a path that means something here only would be a trap.
static int check_paths(const struct machine_config *config, struct error *err)
{
    const char *paths[2 + MACHINE_DISKS_LIMIT] = {config->kernel, config->initrd};
    for (unsigned i = 0; i < config->disk_count; i++)
        paths[2 + i] = config->disks[i].path;
    for (unsigned i = 0; i < 2 + config->disk_count; i++)
        if (paths[i] && paths[i][0] && paths[i][0] != '/' && !names_pool(paths[i]))
            return error_set(err, EINVAL,
                             "'%s': hosts find files by absolute paths (the same on all of them), "
                             "or as POOL:FILE",
                             paths[i]);
    return 0;
}

// Options over file over defaults; NULL with a sentence.
static json_t *make_description(struct vm_options *o, const char *name, struct error *err)
{
    struct machine_config config;
    json_t *description = NULL;
    int r = machine_config_init(&config);
    if (!r && o->file)
        r = read_file(o, &config, err);
    if (!r && o->flags)
        r = machine_config_from_json(&config, o->flags, err);
    snprintf(config.name, sizeof(config.name), "%s", name);
    config.force = config.force || o->force;
    config.debug_exit = config.debug_exit || o->debug_exit;
    if (!r && !name_is_valid(name))
        r = error_set(err, EINVAL, "'%s' is not a machine name ([a-z0-9][a-z0-9._-]{0,39})", name);
    if (!r && uuid_generate_random(&config.uuid)) // stands in for the one it will get
        r = error_set(err, EIO, "this host gives no random bytes");
    if (!r)
        r = machine_config_check(&config, err);
    if (!r)
        r = check_paths(&config, err);
    if (!r) {
        description = machine_config_to_json(&config);
        json_object_del(description, "name");
        json_object_del(description, "uuid");
    }
    machine_config_free(&config);
    return description;
}

// ---- create ----

static int create(int argc, char **argv);
static const struct option_spec create_options[] = {
    {.name = "file",
     .letter = 'f',
     .kind = OPTION_TEXT,
     .offset = offsetof(struct vm_options, file),
     .argument = "FILE",
     .help = "its description, as for `ferry run --config`, \"placement\" and \"ha\""},
    {.name = "kernel",
     .letter = 'k',
     .kind = OPTION_CALL,
     .argument = "FILE",
     .call = set_kernel,
     .help = "kernel image; paths are absolute, and the same on all hosts"},
    {.name = "initrd",
     .letter = 'i',
     .kind = OPTION_CALL,
     .argument = "FILE",
     .call = set_initrd,
     .help = "initial RAM disk"},
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
     .help = "number of vCPUs (1)"},
    {.name = "memory",
     .letter = 'm',
     .kind = OPTION_CALL,
     .argument = "SIZE",
     .call = set_memory,
     .help = "RAM (512M)"},
    {.name = "cpu", .kind = OPTION_CALL, .argument = "MODEL", .call = set_cpu, .help = "CPU model"},
    {.name = "disk",
     .letter = 'd',
     .kind = OPTION_CALL,
     .argument = "FILE[,ro]",
     .call = add_disk,
     .help = "a disk, by path or POOL:FILE; can be repeated"},
    {.name = "net",
     .letter = 'n',
     .kind = OPTION_CALL,
     .argument = "KIND",
     .call = add_net,
     .help = "a network, as for `ferry run`; can be repeated"},
    {.name = "label",
     .kind = OPTION_CALL,
     .argument = "LABEL",
     .call = add_label,
     .help = "a label of the machine, for --with and --away; can be repeated"},
    {.name = "host-label",
     .kind = OPTION_CALL,
     .argument = "LABEL",
     .call = add_host_label,
     .help = "only on hosts with this label"},
    {.name = "need-pool",
     .kind = OPTION_CALL,
     .argument = "POOL",
     .call = add_pool,
     .help = "only on hosts with this pool (those of its files are known)"},
    {.name = "need-net",
     .kind = OPTION_CALL,
     .argument = "NET",
     .call = add_needed_net,
     .help = "only on hosts with this net"},
    {.name = "with",
     .kind = OPTION_CALL,
     .argument = "WHOM[,soft[=WEIGHT]]",
     .call = add_with,
     .help = "on the host of machine:NAME, label:LABEL, host:NAME or host-label:LABEL"},
    {.name = "away",
     .kind = OPTION_CALL,
     .argument = "WHOM[,soft[=WEIGHT]]",
     .call = add_away,
     .help = "never on the host of these; with soft: rather not"},
    {.name = "host",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct vm_options, host),
     .argument = "HOST",
     .help = "the only host it may run on"},
    {.name = "restart",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct vm_options, restart),
     .argument = "always|on-failure|never",
     .help = "what happens when it ends by itself (on-failure)"},
    {.name = "no-ha",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct vm_options, no_ha),
     .help = "it runs on when its host doesn't answer, and never starts elsewhere without "
             "`ferry vm declare-dead`"},
    {.name = "request",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct vm_options, request),
     .argument = "ID",
     .help = "a name of this request: done twice, it makes one machine"},
    {.name = "stopped",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct vm_options, stopped),
     .help = "don't start it"},
    {.name = "debug-exit",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct vm_options, debug_exit),
     .help = "test devices"},
    {.name = "force",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct vm_options, force),
     .help = "a stock kernel also where KVM emulates ring 0"},
    VM_OPTIONS_WAIT("return when it runs"),
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};
const struct subcommand vm_create = {
    .name = "vm create",
    .arguments = "NAME",
    .summary = "makes a machine, which the cluster starts on one of its hosts",
    .options = create_options,
    .least = 1,
    .most = 1,
    .run = create,
};

static int create_machine(struct vm_options *o, const char *name, struct error *err)
{
    json_t *result = NULL, *description = make_description(o, name, err);
    if (!description)
        return -err->code;
    json_t *params = json_pack("{s:s, s:o, s:b}", "name", name, "description", description, "start",
                               !o->stopped);
    if (o->placement)
        json_object_set(params, "placement", o->placement);
    if (o->host)
        json_object_set_new(params, "host", json_string(o->host));
    if (o->no_ha)
        json_object_set_new(params, "ha", json_false());
    if (o->restart)
        json_object_set_new(params, "restart", json_string(o->restart));
    if (o->request)
        json_object_set_new(params, "request", json_string(o->request));
    int r = daemon_call(&o->common, "vm.create", params, &result, err);
    if (!r && o->wait && !o->stopped)
        r = vm_await_state(o, name, "running", false, err);
    if (!r && o->common.format == OUTPUT_JSON)
        output_json_line(result);
    else if (!r)
        printf("%s\n", output_text_of(result, "uuid"));
    json_decref(result);
    return r;
}

static int create(int argc, char **argv)
{
    struct vm_options o = {0};
    struct error err = {0};
    char **arguments;
    int status = options_parse(&vm_create, argc, argv, &o, &arguments);
    if (status == OPTIONS_GO)
        status = create_machine(&o, arguments[0], &err) ? daemon_fail(&vm_create, &err) : STATUS_OK;
    json_decref(o.flags);
    json_decref(o.placement);
    return status;
}
