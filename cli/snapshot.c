// ferry snapshot
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"
#include "cli/whole_file.h"

static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

static int snapshot_to(struct control_client *client, const char *path, json_t **result,
                       struct error *err)
{
    struct whole_file file;
    int rc = whole_file_open(&file, path, err);
    if (rc)
        return rc;
    int fd = fileno(file.stream);
    rc = control_client_call(client, "snapshot", json_pack("{s:{s:i}}", "file", "fd", 0), &fd, 1,
                             -1, result, err);
    return whole_file_end(&file, rc, err);
}

static int snapshot(int argc, char **argv)
{
    struct common_options common = {0};
    struct error err = {0};
    struct runtime_dir dir;
    struct control_client *client;
    json_t *result = NULL;
    char **arguments;
    int status = options_parse(&command_snapshot, argc, argv, &common, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (runtime_dir_open(&dir, common.runtime_dir, &err) != 0)
        return machine_access_fail(&command_snapshot, &err);
    int rc = machine_access_connect(&dir, arguments[0], ACCESS_TIMEOUT_MS, &client, &err);
    if (rc == 0) {
        rc = snapshot_to(client, arguments[1], &result, &err);
        control_client_close(client);
    }
    runtime_dir_close(&dir);
    if (rc < 0)
        return machine_access_fail(&command_snapshot, &err);
    char size[32];
    uint64_t bytes = (uint64_t)json_integer_value(json_object_get(result, "bytes"));
    if (common.format == OUTPUT_JSON)
        output_json_line(result);
    else
        printf("%s: %s written\n", arguments[1], units_format_size(bytes, size, sizeof(size)));
    json_decref(result);
    return STATUS_OK;
}

const struct subcommand command_snapshot = {
    .name = "snapshot",
    .arguments = "NAME FILE",
    .summary =
        "writes a machine's RAM and state to a file; the machine stands meanwhile, then goes on",
    .details = "Disks are not in it: restore checks that they are as they were. Until all of it is "
               "on the disk it\n"
               "is FILE.partial, and another command that would write the same FILE is refused.",
    .options = options,
    .least = 2,
    .most = 2,
    .run = snapshot,
};
