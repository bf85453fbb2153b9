#include "cli/daemon_access.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/control_client.h"
#include "base/runtime_dir.h"
#include "cli/cluster_access.h"

enum { CALL_TIMEOUT_MS = 30000 };
// While waiting a host that doesn't answer is soon left for the next one.
enum { LOOK_TIMEOUT_MS = 10000, LOOK_AT_LEAST_MS = 1000, LOOK_AGAIN_MS = 100 };

static int connect_here(const char *runtime_dir, struct control_client **client, struct error *err)
{
    struct runtime_dir dir;
    char path[PATH_MAX + 16];
    int r = runtime_dir_open(&dir, runtime_dir, err);
    if (r)
        return r;
    snprintf(path, sizeof(path), "%s/.ferryd.sock", dir.path);
    r = control_client_connect(client, path, CALL_TIMEOUT_MS, err);
    if (r == -ENOENT || r == -ECONNREFUSED)
        error_set(err, ENOENT, "no ferryd runs for '%s' (`ferryd --help`; docs/cluster.md)",
                  dir.path);
    runtime_dir_close(&dir);
    return r;
}

// `first` counts the hosts of a cluster elsewhere.
static int call(const struct common_options *common, unsigned first, int timeout_ms,
                const char *method, json_t *params, json_t **result, struct error *err)
{
    struct control_client *client = NULL;
    struct cluster_access access = {0};
    bool elsewhere = cluster_access_is_elsewhere(common);
    int r = 0;
    if (elsewhere) {
        r = cluster_access_open(&access, common, err);
        access.first = first;
        if (!r)
            r = cluster_access_control(&access, &client, timeout_ms, err);
    } else {
        r = connect_here(common->runtime_dir, &client, err);
    }
    if (r)
        json_decref(params);
    else
        r = control_client_call(client, method, params, NULL, 0, timeout_ms, result, err);
    if (r && client && r != -EREMOTEIO && !elsewhere)
        error_prefix(err, "ferryd");
    control_client_close(client);
    cluster_access_close(&access);
    return r;
}

int daemon_call(const struct common_options *common, const char *method, json_t *params,
                json_t **result, struct error *err)
{
    return call(common, 0, CALL_TIMEOUT_MS, method, params, result, err);
}

// Of one call: what is left, but enough for an answer.
static int timeout_of(uint64_t left)
{
    uint64_t ms = left / NSEC_PER_MSEC;
    return ms > LOOK_TIMEOUT_MS    ? LOOK_TIMEOUT_MS
           : ms < LOOK_AT_LEAST_MS ? LOOK_AT_LEAST_MS
                                   : (int)ms;
}

// What was seen last says more than that a later look had no answer.
static int say_last_word(const struct error *seen, struct error *err)
{
    struct error now = *err;
    if (seen->code && strcmp(seen->message, now.message) != 0)
        return error_set(err, ETIMEDOUT, "%.350s (then: %.200s)", seen->message, now.message);
    return error_set(err, ETIMEDOUT, "%s", now.message);
}

int daemon_await(const struct common_options *common, uint64_t timeout_ns, const char *method,
                 json_t *params, int (*look)(void *opaque, const json_t *result, struct error *err),
                 void *opaque, struct error *err)
{
    uint64_t now = clock_monotonic_ns(), wait = timeout_ns ? timeout_ns : 60 * NSEC_PER_SEC;
    uint64_t limit = wait > UINT64_MAX - now ? UINT64_MAX : now + wait;
    struct error seen = {0};
    unsigned first = 0;
    for (;;) {
        json_t *result = NULL;
        *err = (struct error){0};
        int r =
            call(common, first, timeout_of(limit - now), method, json_incref(params), &result, err);
        if (r && r != -EREMOTEIO) {
            first++;
            r = 1;
        } else {
            r = look(opaque, r ? NULL : result, err);
            seen = *err;
        }
        json_decref(result);
        now = clock_monotonic_ns();
        if (r == 1 && now + LOOK_AGAIN_MS * NSEC_PER_MSEC < limit) {
            nanosleep(&(struct timespec){.tv_nsec = LOOK_AGAIN_MS * (long)NSEC_PER_MSEC}, NULL);
            now = clock_monotonic_ns();
            if (now < limit)
                continue;
        }
        json_decref(params);
        return r == 1 ? say_last_word(&seen, err) : r;
    }
}

bool daemon_knows_no_machine(const struct error *err)
{
    return strstr(err->message, "there is no machine") != NULL;
}

int daemon_call_with(const struct common_options *common, const char *method, json_t *params,
                     int fd, struct error *err)
{
    struct control_client *client = NULL;
    int r = connect_here(common->runtime_dir, &client, err);
    if (r)
        json_decref(params);
    else
        r = control_client_call(client, method, params, &fd, 1, CALL_TIMEOUT_MS, NULL, err);
    control_client_close(client);
    return r;
}

int daemon_fail(const struct subcommand *command, const struct error *err)
{
    fprintf(stderr, "ferry: %s: %s\n", command->name, err->message);
    return STATUS_FAILED;
}

static void print_group(FILE *out, const char *group, const char *summary,
                        const struct subcommand *const *commands)
{
    fprintf(out, "Usage: ferry %s COMMAND [ARGUMENT]... [OPTION]...\n%s\n\n", group, summary);
    for (; *commands; commands++)
        fprintf(out, "  %-20s%s\n", (*commands)->name + strlen(group) + 1, (*commands)->summary);
    fprintf(out, "\n`ferry %s COMMAND --help` tells more.\n", group);
}

int daemon_group(const char *group, const char *summary, const struct subcommand *const *commands,
                 int argc, char **argv)
{
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_group(stdout, group, summary, commands);
        return STATUS_OK;
    }
    for (int i = 0; argc >= 2 && commands[i]; i++)
        if (strcmp(commands[i]->name + strlen(group) + 1, argv[1]) == 0)
            return commands[i]->run(argc - 1, argv + 1);
    if (argc >= 2)
        fprintf(stderr, "ferry: %s: '%s' is not a command of it\n", group, argv[1]);
    print_group(stderr, group, summary, commands);
    return STATUS_USAGE;
}
