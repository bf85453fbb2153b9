// ferry version
#include <stdio.h>

#include "base/control_server.h"
#include "cli/commands.h"
#include "cli/output.h"

static const struct option_spec options[] = {OPTIONS_FORMAT, {0}};

static int version(int argc, char **argv)
{
    struct common_options common = {0};
    char **arguments;
    int status = options_parse(&command_version, argc, argv, &common, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (common.format == OUTPUT_JSON) {
        json_t *object =
            json_pack("{s:s, s:s}", "version", FERRY_VERSION, "protocol", CONTROL_PROTOCOL);
        output_json(object);
        json_decref(object);
    } else {
        printf("ferry %s (control protocol %s)\n", FERRY_VERSION, CONTROL_PROTOCOL);
    }
    return STATUS_OK;
}

const struct subcommand command_version = {
    .name = "version",
    .arguments = "",
    .summary = "prints ferry's version",
    .options = options,
    .run = version,
};
