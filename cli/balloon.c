// ferry balloon
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"

struct balloon_options {
    struct common_options common;
    uint64_t wait_ns;
};

static const struct option_spec options[] = {
    {.name = "wait",
     .letter = 'w',
     .kind = OPTION_DURATION,
     .offset = offsetof(struct balloon_options, wait_ns),
     .argument = "TIME",
     .help = "wait until the guest has come down to SIZE, at most that long"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    {0},
};

static uint64_t bytes_of(const json_t *status, const char *key)
{
    return (uint64_t)json_integer_value(json_object_get(status, key));
}

static void print_status(const struct balloon_options *o, const char *name, const json_t *status)
{
    char size[32], target[32], current[32];
    if (o->common.format == OUTPUT_JSON) {
        output_json(status);
        return;
    }
    printf("%s: %s of %s (wanted: %s)%s\n", name,
           units_format_size(bytes_of(status, "current_bytes"), current, sizeof(current)),
           units_format_size(bytes_of(status, "size_bytes"), size, sizeof(size)),
           units_format_size(bytes_of(status, "target_bytes"), target, sizeof(target)),
           json_is_true(json_object_get(status, "driver"))
               ? ""
               : "; the guest has no driver for it yet");
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(status, "statistics"), key, value)
        printf("  %s %lld\n", key, (long long)json_integer_value(value));
}

// Until the guest has given what was asked of it. 0, or -ETIMEDOUT with a sentence.
static int await_size(struct control_client *client, uint64_t wait_ns, json_t **status,
                      struct error *err)
{
    uint64_t limit = clock_monotonic_ns() + wait_ns;
    int r = 0;
    while (r == 0 && bytes_of(*status, "current_bytes") > bytes_of(*status, "target_bytes")) {
        uint64_t now = clock_monotonic_ns();
        if (now >= limit) {
            char current[32];
            return error_set(
                err, ETIMEDOUT, "the guest is still at %s",
                units_format_size(bytes_of(*status, "current_bytes"), current, sizeof(current)));
        }
        json_t *event = NULL;
        r = control_client_next_event(client, (int)((limit - now) / NSEC_PER_MSEC) + 1, &event,
                                      err);
        json_decref(event);
        if (r == -ETIMEDOUT)
            r = 0; // the last look comes now
        if (r == 0) {
            json_decref(*status);
            *status = NULL;
            r = control_client_call(client, "balloon", NULL, NULL, 0, ACCESS_TIMEOUT_MS, status,
                                    err);
        }
    }
    return r;
}

static int run_balloon(struct control_client *client, const struct balloon_options *o,
                       const char *name, const uint64_t *size, struct error *err)
{
    json_t *params = size ? json_pack("{s:I}", "size", (json_int_t)*size) : NULL;
    json_t *status = NULL;
    int r = o->wait_ns ? control_client_call(client, "events.subscribe", NULL, NULL, 0,
                                             ACCESS_TIMEOUT_MS, NULL, err)
                       : 0;
    if (r) {
        json_decref(params);
        return r;
    }
    r = control_client_call(client, "balloon", params, NULL, 0, ACCESS_TIMEOUT_MS, &status, err);
    if (r == 0 && o->wait_ns)
        r = await_size(client, o->wait_ns, &status, err);
    if (r == 0)
        print_status(o, name, status);
    json_decref(status);
    return r;
}

static int balloon(int argc, char **argv)
{
    struct balloon_options o = {0};
    struct error err = {0};
    struct runtime_dir dir;
    struct control_client *client;
    uint64_t size;
    char **arguments;
    int status = options_parse(&command_balloon, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (arguments[1] && units_parse_size(arguments[1], &size) != 0) {
        fprintf(stderr, "ferry: balloon: '%s' is not a size\n", arguments[1]);
        return STATUS_USAGE;
    }
    if (runtime_dir_open(&dir, o.common.runtime_dir, &err) != 0)
        return machine_access_fail(&command_balloon, &err);
    int r = machine_access_connect(&dir, arguments[0], ACCESS_TIMEOUT_MS, &client, &err);
    if (r == 0) {
        r = run_balloon(client, &o, arguments[0], arguments[1] ? &size : NULL, &err);
        if (r)
            error_prefix(&err, "'%s'", arguments[0]);
        control_client_close(client);
    }
    runtime_dir_close(&dir);
    return r ? machine_access_fail(&command_balloon, &err) : STATUS_OK;
}

const struct subcommand command_balloon = {
    .name = "balloon",
    .arguments = "NAME [SIZE]",
    .summary = "shows or sets how much of its RAM a guest makes do with",
    .details = "The machine was started with --balloon, and its guest has a driver. What it gives "
               "goes back to\nthe host at once; with a larger SIZE it takes as much again. Without "
               "a SIZE: what there is, and\nthe guest's own statistics.",
    .options = options,
    .least = 1,
    .most = 2,
    .run = balloon,
};
