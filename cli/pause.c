// ferry pause
#include "cli/commands.h"
#include "cli/machine_access.h"

static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

static int pause_machines(int argc, char **argv)
{
    return machine_access_method(&command_pause, argc, argv, "pause");
}

const struct subcommand command_pause = {
    .name = "pause",
    .arguments = "NAME...",
    .summary = "stops a machine's CPUs until it is resumed",
    .options = options,
    .least = 1,
    .most = UINT32_MAX,
    .run = pause_machines,
};
