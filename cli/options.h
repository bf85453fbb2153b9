// The one argument parser: options of a subcommand as a table, parsed by getopt_long's rules
// (--name VALUE, --name=VALUE, unambiguous beginnings, -x VALUE, options and arguments in any
// order, "--" ends options), and its --help made from the same table.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum exit_status { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2, STATUS_CRASHED = 4 };

// Where the value goes: `offset` into the subcommand's struct of values.
enum option_kind {
    OPTION_FLAG,     // bool, set to true
    OPTION_TEXT,     // const char *, points into argv
    OPTION_SIZE,     // uint64_t, bytes
    OPTION_DURATION, // uint64_t, nanoseconds
    OPTION_NUMBER,   // uint64_t
    OPTION_CHOICE,   // int, index into `choices`
    OPTION_CALL,     // `call` does it: for options that can be repeated
};

struct option_spec {
    const char *name; // without the dashes; NULL ends a table
    char letter;      // 0 for none
    enum option_kind kind;
    size_t offset;
    const char *argument; // what stands for the value in the help; NULL for a flag
    const char *help;
    const char *const *choices; // ended by NULL
    int (*call)(void *values, const char *text, struct error *err);
    const char *environment; // of OPTION_TEXT: the variable that is taken where it isn't given
};

struct subcommand {
    const char *name;
    const char *arguments; // "NAME", "NAME...", "[NAME]", ""
    const char *summary;   // one line
    const char *details;   // printed below the options; may be NULL
    const struct option_spec *options;
    unsigned least, most; // arguments
    int (*run)(int argc, char **argv);
};

// What many subcommands share: the first member of their values.
struct common_options {
    const char *runtime_dir; // NULL: the default
    int format;              // enum output_format
    // Where the cluster is; NULL: at this host's ferryd. And our certificate for it.
    const char *cluster, *certificates;
};
enum output_format { OUTPUT_TEXT, OUTPUT_JSON };
extern const char *const output_format_names[];

#define OPTIONS_RUNTIME_DIR                                                                        \
    {                                                                                              \
        .name = "runtime-dir", .kind = OPTION_TEXT,                                                \
        .offset = offsetof(struct common_options, runtime_dir), .argument = "DIR",                 \
        .help = "where machines of this host are found (or FERRY_RUNTIME_DIR)"                     \
    }
// For commands that are good for a cluster elsewhere too (cli/cluster_access.h).
#define OPTIONS_CLUSTER                                                                            \
    {.name = "cluster",                                                                            \
     .kind = OPTION_TEXT,                                                                          \
     .offset = offsetof(struct common_options, cluster),                                           \
     .argument = "DIR|tls://A,B",                                                                  \
     .help = "a cluster elsewhere (or FERRY_CLUSTER)",                                             \
     .environment = "FERRY_CLUSTER"},                                                              \
    {                                                                                              \
        .name = "certificates", .kind = OPTION_TEXT,                                               \
        .offset = offsetof(struct common_options, certificates), .argument = "DIR",                \
        .help = "with tls://: where cert.pem, key.pem and ca.pem are (or FERRY_CERTIFICATES)",     \
        .environment = "FERRY_CERTIFICATES"                                                        \
    }
#define OPTIONS_FORMAT                                                                             \
    {                                                                                              \
        .name = "format", .kind = OPTION_CHOICE,                                                   \
        .offset = offsetof(struct common_options, format), .argument = "text|json",                \
        .help = "how to print", .choices = output_format_names                                     \
    }

// Parses into `values` and puts the plain arguments into *arguments (within argv, ended by NULL).
// Returns OPTIONS_GO, or the status to end with: help was printed, or an error.
enum { OPTIONS_GO = -1 };
int options_parse(const struct subcommand *command, int argc, char **argv, void *values,
                  char ***arguments);
void options_print_help(const struct subcommand *command);
