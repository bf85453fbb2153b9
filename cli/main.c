// ferry: finds the subcommand and runs it.
#include <stdio.h>
#include <string.h>

#include "base/cluster_mutant.h"
#include "base/standard_files.h"
#include "cli/commands.h"

static const struct subcommand *const commands[] = {
    &command_run,     &command_ps,       &command_inspect, &command_stats,  &command_console,
    &command_logs,    &command_events,   &command_wait,    &command_stop,   &command_kill,
    &command_pause,   &command_resume,   &command_reset,   &command_rm,     &command_migrate,
    &command_receive, &command_snapshot, &command_restore, &command_doctor, &command_store,
    &command_cluster, &command_vm,       &command_balloon, &command_device, &command_cpu,
    &command_top,     &command_version,
};
enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void print_help(FILE *out)
{
    fprintf(out, "Usage: ferry COMMAND [ARGUMENT]... [OPTION]...\n"
                 "Runs guest machines on Linux KVM.\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-10s%s\n", commands[i]->name, commands[i]->summary);
    fprintf(out, "  %-10s%s\n\n`ferry COMMAND --help` tells more, as does man ferry.\n", "help",
            "print this, or with a COMMAND its help");
}

static const struct subcommand *find_command(const char *name)
{
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    fprintf(stderr, "ferry: '%s' is not a command (`ferry help` lists them)\n", name);
    return NULL;
}

static int help(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return STATUS_OK;
    }
    const struct subcommand *command = find_command(argv[1]);
    if (!command)
        return STATUS_USAGE;
    // A group of subcommands prints its own.
    if (!command->options)
        return command->run(2, (char *[]){argv[1], (char *)"--help", NULL});
    options_print_help(command);
    return STATUS_OK;
}

static int run_command(int argc, char **argv)
{
#ifdef CLUSTER_MUTANTS
    cluster_mutant_choose();
#endif
    if (argc < 2) {
        print_help(stderr);
        return STATUS_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(name, "--version") == 0)
        name = "version";
    const struct subcommand *command = find_command(name);
    return command ? command->run(argc - 1, argv + 1) : STATUS_USAGE;
}

int main(int argc, char **argv)
{
    standard_files_occupy();
    int status = run_command(argc, argv);
    const char *fault = standard_output_end();
    if (!fault)
        return status;
    fprintf(stderr, "ferry: what it has to print can't be written: %s\n", fault);
    return status == STATUS_OK ? STATUS_FAILED : status;
}
