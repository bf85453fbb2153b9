#include "cli/machine_access.h"

#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "cli/output.h"

int machine_access_fail(const struct subcommand *command, const struct error *err)
{
    fprintf(stderr, "ferry: %s: %s\n", command->name, err->message);
    return STATUS_FAILED;
}

// Why a machine that isn't running isn't.
static int describe_dead(const struct runtime_dir *dir, const char *name, struct error *err)
{
    json_t *status = runtime_dir_read_exit(dir, name);
    const char *reason = json_string_value(json_object_get(status, "reason"));
    char death[RUNTIME_DEATH_SIZE];
    if (reason)
        error_set(err, ESRCH, "'%s' is not running (%s)", name, reason);
    else {
        runtime_dir_read_death(dir, name, death);
        error_set(err, ESRCH, "'%s' is not running (its process %s)", name, death);
    }
    json_decref(status);
    return -ESRCH;
}

int machine_access_connect(const struct runtime_dir *dir, const char *name, int timeout_ms,
                           struct control_client **client, struct error *err)
{
    char path[PATH_MAX];
    int alive = name_is_valid(name) ? runtime_dir_is_alive(dir, name) : -ENOENT;
    if (alive == -ENOENT)
        return error_set(err, ENOENT, "there is no machine named '%s' (`ferry ps -a` lists them)",
                         name);
    if (alive < 0)
        return error_set_errno(err, -alive, "looking at '%s'", name);
    if (!alive)
        return describe_dead(dir, name, err);
    if (runtime_dir_path(dir, name, "control.sock", path) != 0)
        return error_set(err, ENAMETOOLONG, "the path of '%s' is too long", name);
    int r = control_client_connect(client, path, timeout_ms, err);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return error_set(err, EAGAIN, "'%s' is still starting, or about to end: try again", name);
    return r ? error_prefix(err, "'%s'", name) : 0;
}

int machine_access_call(const struct runtime_dir *dir, const char *name, const char *method,
                        json_t **result, struct error *err)
{
    struct control_client *client = NULL;
    int r = machine_access_connect(dir, name, ACCESS_TIMEOUT_MS, &client, err);
    if (r)
        return r;
    r = control_client_call(client, method, NULL, NULL, 0, ACCESS_TIMEOUT_MS, result, err);
    if (r)
        error_prefix(err, "'%s'", name);
    control_client_close(client);
    return r;
}

bool machine_access_await_end(const struct runtime_dir *dir, const char *name, int timeout_ms)
{
    uint64_t limit =
        timeout_ms < 0 ? UINT64_MAX : clock_monotonic_ns() + (uint64_t)timeout_ms * NSEC_PER_MSEC;
    long pause_ns = NSEC_PER_MSEC;
    while (runtime_dir_is_alive(dir, name) == 1) {
        if (clock_monotonic_ns() >= limit)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = pause_ns}, NULL);
        if (pause_ns < (long)(50 * NSEC_PER_MSEC))
            pause_ns += pause_ns / 4;
    }
    return true;
}

int machine_access_each(const struct subcommand *command, const struct common_options *common,
                        char **names,
                        int (*act)(const struct runtime_dir *dir, const char *name, void *opaque,
                                   struct error *err),
                        void *opaque)
{
    struct runtime_dir dir;
    struct error err = {0};
    int status = STATUS_OK;
    if (runtime_dir_open(&dir, common->runtime_dir, &err) != 0)
        return machine_access_fail(command, &err);
    for (char **name = names; *name; name++) {
        if (act(&dir, *name, opaque, &err) != 0)
            status = machine_access_fail(command, &err);
    }
    runtime_dir_close(&dir);
    return status;
}

void machine_access_print_state(const char *name, json_t *result, int format)
{
    if (format == OUTPUT_JSON) {
        json_object_set_new(result, "name", json_string(name));
        output_json_line(result);
    } else {
        printf("%s: %s\n", name, json_string_value(json_object_get(result, "state")));
    }
}

struct method_call {
    const struct common_options *common;
    const char *method;
};

static int call_method(const struct runtime_dir *dir, const char *name, void *opaque,
                       struct error *err)
{
    const struct method_call *call = opaque;
    json_t *result = NULL;
    int r = machine_access_call(dir, name, call->method, &result, err);
    if (r)
        return r;
    machine_access_print_state(name, result, call->common->format);
    json_decref(result);
    return 0;
}

int machine_access_method(const struct subcommand *command, int argc, char **argv,
                          const char *method)
{
    struct common_options common = {0};
    char **names;
    int status = options_parse(command, argc, argv, &common, &names);
    struct method_call call = {&common, method};
    return status == OPTIONS_GO ? machine_access_each(command, &common, names, call_method, &call)
                                : status;
}
