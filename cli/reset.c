// ferry reset
#include "cli/commands.h"
#include "cli/machine_access.h"

static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

static int reset_machines(int argc, char **argv)
{
    return machine_access_method(&command_reset, argc, argv, "reset");
}

const struct subcommand command_reset = {
    .name = "reset",
    .arguments = "NAME...",
    .summary = "resets a machine, as its reset button would",
    .options = options,
    .least = 1,
    .most = UINT32_MAX,
    .run = reset_machines,
};
