#include "cli/daemon_access.h"

#include <stdio.h>
#include <string.h>

#include "base/control_client.h"
#include "base/runtime_dir.h"
#include "cli/cluster_access.h"

enum { CALL_TIMEOUT_MS = 30000 };

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

int daemon_call(const struct common_options *common, const char *method, json_t *params,
                json_t **result, struct error *err)
{
    struct control_client *client = NULL;
    struct cluster_access access = {0};
    bool elsewhere = cluster_access_is_elsewhere(common);
    int r = 0;
    if (elsewhere) {
        r = cluster_access_open(&access, common, err);
        if (!r)
            r = cluster_access_control(&access, &client, CALL_TIMEOUT_MS, err);
    } else {
        r = connect_here(common->runtime_dir, &client, err);
    }
    if (r)
        json_decref(params);
    else
        r = control_client_call(client, method, params, NULL, 0, CALL_TIMEOUT_MS, result, err);
    if (r && client && r != -EREMOTEIO && !elsewhere)
        error_prefix(err, "ferryd");
    control_client_close(client);
    cluster_access_close(&access);
    return r;
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
