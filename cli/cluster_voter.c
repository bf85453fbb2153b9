// ferry cluster voter: add, remove, replace
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/cluster.h"
#include "cli/daemon_access.h"
#include "cli/output.h"

struct voter_options {
    struct common_options common;
    uint64_t timeout;
    bool detach;
};

static int voter(int argc, char **argv);
static const struct option_spec options[] = {
    {.name = "timeout",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct voter_options, timeout),
     .argument = "TIME",
     .help = "how long to wait until it is so (60s); the wish stays"},
    {.name = "detach",
     .kind = OPTION_FLAG,
     .offset = offsetof(struct voter_options, detach),
     .help = "don't wait"},
    OPTIONS_FORMAT,
    OPTIONS_RUNTIME_DIR,
    OPTIONS_CLUSTER,
    {0},
};
const struct subcommand cluster_voter = {
    .name = "cluster voter",
    .arguments = "add HOST... | remove HOST... | replace OLD NEW",
    .summary = "says which hosts decide in the store",
    .details = "1, 3, 5 or 7 of them; all others are learners, which get everything and decide "
               "nothing. Of three\nvoters one may fail, of five two, of seven three. A host that "
               "is added copies everything first;\nthen all that was asked for is one step. Hosts "
               "that join become voters by themselves where an\nodd number, up to seven, comes of "
               "it, unless they were removed here.",
    .options = options,
    .least = 2,
    .most = 33,
    .run = voter,
};

static bool is_among(const json_t *list, const char *name)
{
    size_t i;
    const json_t *value;
    json_array_foreach(list, i, value)
    {
        if (strcmp(json_string_value(value), name) == 0)
            return true;
    }
    return false;
}

struct awaited {
    const json_t *add, *remove;
};

// A change of the leader may leave it without an answer for a moment.
static int look(void *opaque, const json_t *status, struct error *err)
{
    const struct awaited *awaited = opaque;
    const json_t *member;
    size_t i;
    if (!status)
        return 1;
    json_array_foreach(json_object_get(status, "members"), i, member)
    {
        const char *name = output_text_of(member, "name"), *role = output_text_of(member, "role");
        bool now = strcmp(role, "voter") == 0 || strcmp(role, "leader") == 0;
        bool leaving = strcmp(role, "leaving") == 0;
        if ((!is_among(awaited->add, name) || now) &&
            (!is_among(awaited->remove, name) || (!now && !leaving)))
            continue;
        error_set(err, EAGAIN,
                  "'%s' isn't what was asked for yet: a host that is added must be up, to copy "
                  "everything; it goes on (`ferry cluster status`)",
                  name);
        return 1;
    }
    return 0;
}

static int await(const struct voter_options *o, const json_t *add, const json_t *remove,
                 struct error *err)
{
    struct awaited awaited = {.add = add, .remove = remove};
    return daemon_await(&o->common, o->timeout, "cluster.status", NULL, look, &awaited, err);
}

static int voter(int argc, char **argv)
{
    struct voter_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *result = NULL, *add = json_array(), *remove = json_array();
    int status = options_parse(&cluster_voter, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    const char *action = arguments[0];
    bool replace = strcmp(action, "replace") == 0;
    bool known = replace ? arguments[2] && !arguments[3]
                         : strcmp(action, "add") == 0 || strcmp(action, "remove") == 0;
    if (!known) {
        fprintf(stderr, "ferry: cluster voter: add HOST..., remove HOST..., or replace OLD NEW\n");
        return STATUS_USAGE;
    }
    for (int i = 1; arguments[i]; i++) {
        bool goes = replace ? i == 1 : strcmp(action, "remove") == 0;
        json_array_append_new(goes ? remove : add, json_string(arguments[i]));
    }
    if (replace && strcmp(arguments[1], arguments[2]) == 0) {
        fprintf(stderr, "ferry: cluster voter: '%s' can't be replaced by itself\n", arguments[1]);
        json_decref(add);
        json_decref(remove);
        return STATUS_USAGE;
    }
    int r = daemon_call(&o.common, "cluster.voter",
                        json_pack("{s:O, s:O}", "add", add, "remove", remove), &result, &err);
    if (!r && !o.detach)
        r = await(&o, add, remove, &err);
    if (!r && o.common.format == OUTPUT_JSON)
        output_json(result);
    else if (!r)
        printf("%" PRIu64 " voter%s\n", output_number_of(result, "voters"),
               output_number_of(result, "voters") == 1 ? "" : "s");
    json_decref(result);
    json_decref(add);
    json_decref(remove);
    return r ? daemon_fail(&cluster_voter, &err) : STATUS_OK;
}
