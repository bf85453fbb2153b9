// ferry inspect
#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"

static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

static int inspect_one(const struct runtime_dir *dir, const char *name, void *opaque,
                       struct error *err)
{
    json_t *description = NULL;
    int r = machine_access_call(dir, name, "inspect", &description, err);
    if (!r)
        output_json(description);
    json_decref(description);
    return r;
}

static int inspect(int argc, char **argv)
{
    struct common_options common = {0};
    char **names;
    int status = options_parse(&command_inspect, argc, argv, &common, &names);
    return status == OPTIONS_GO
               ? machine_access_each(&command_inspect, &common, names, inspect_one, NULL)
               : status;
}

const struct subcommand command_inspect = {
    .name = "inspect",
    .arguments = "NAME",
    .summary = "prints a machine's description, as run --config takes it",
    .details = "The description is JSON in either format.",
    .options = options,
    .least = 1,
    .most = 1,
    .run = inspect,
};
