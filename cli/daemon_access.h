// How subcommands reach a ferryd: this host's by its socket in the runtime directory, another
// cluster's by TLS (cluster_access.h).
#pragma once

#include <jansson.h>

#include "cli/options.h"

// Calls one method; takes `params` over. *result is a new object (NULL: not wanted). 0 or a
// sentence.
int daemon_call(const struct common_options *common, const char *method, json_t *params,
                json_t **result, struct error *err);

// Calls `method` until what it answers is what is waited for. `look` says so: 0; 1: not yet, with
// the reason in *err; or an error that ends it. It is called with NULL, and the sentence in *err,
// when ferryd answered with an error. A call that isn't answered, or not in time, is tried again,
// elsewhere at the next host. Takes `params` over. -ETIMEDOUT after `timeout_ns` (0: a minute,
// DAEMON_WAIT_FOR_EVER) with the last reason.
#define DAEMON_WAIT_FOR_EVER UINT64_MAX
int daemon_await(const struct common_options *common, uint64_t timeout_ns, const char *method,
                 json_t *params, int (*look)(void *opaque, const json_t *result, struct error *err),
                 void *opaque, struct error *err);
// Whether that is what ferryd answered when there is no machine of that name.
bool daemon_knows_no_machine(const struct error *err);
// As daemon_call() at this host's ferryd, with a descriptor that the parameters name {"fd": 0}; it
// stays the caller's. There is no result.
int daemon_call_with(const struct common_options *common, const char *method, json_t *params,
                     int fd, struct error *err);
// "ferry: COMMAND: message"; STATUS_FAILED.
int daemon_fail(const struct subcommand *command, const struct error *err);
// A group of subcommands, as `ferry cluster` and `ferry vm`: finds the one that argv[1] names.
// Their names begin with that of the group and a space. `commands` is ended by NULL.
int daemon_group(const char *group, const char *summary, const struct subcommand *const *commands,
                 int argc, char **argv);
