// The subcommands: one file each, listed in main.c, which is all there is to adding one.
#pragma once

#include "cli/options.h"

extern const struct subcommand command_run, command_ps, command_inspect, command_stats,
    command_console, command_logs, command_events, command_wait, command_rm, command_stop,
    command_kill, command_pause, command_resume, command_reset, command_doctor, command_version,
    command_store, command_cpu, command_top, command_migrate, command_receive, command_snapshot,
    command_restore, command_balloon, command_device, command_cluster, command_vm;
