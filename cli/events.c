// ferry events
#include <stdio.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "cli/machine_access.h"
#include "cli/output.h"

static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};

static void print_event(const json_t *event, int format)
{
    if (format == OUTPUT_JSON) {
        output_json_line(event);
        return;
    }
    const json_t *data = json_object_get(event, "data");
    char *text = json_object_size(data) ? json_dumps(data, JSON_COMPACT) : NULL;
    printf("%s %s%s%s\n", json_string_value(json_object_get(event, "time")),
           json_string_value(json_object_get(event, "event")), text ? " " : "", text ? text : "");
    fflush(stdout);
    free(text);
}

static int follow_events(const struct runtime_dir *dir, const char *name, void *opaque,
                         struct error *err)
{
    const struct common_options *common = opaque;
    struct control_client *client = NULL;
    int r = machine_access_connect(dir, name, ACCESS_TIMEOUT_MS, &client, err);
    if (r)
        return r;
    r = control_client_call(client, "events.subscribe", NULL, NULL, 0, ACCESS_TIMEOUT_MS, NULL,
                            err);
    while (!r && !ferror(stdout)) {
        json_t *event = NULL;
        r = control_client_next_event(client, -1, &event, err);
        if (!r)
            print_event(event, common->format);
        json_decref(event);
    }
    control_client_close(client);
    return r == -ECONNRESET ? 0 : r; // the machine has ended
}

static int events(int argc, char **argv)
{
    struct common_options common = {0};
    char **names;
    int status = options_parse(&command_events, argc, argv, &common, &names);
    return status == OPTIONS_GO
               ? machine_access_each(&command_events, &common, names, follow_events, &common)
               : status;
}

const struct subcommand command_events = {
    .name = "events",
    .arguments = "NAME",
    .summary = "prints what happens to a machine, as it happens, until it ends",
    .options = options,
    .least = 1,
    .most = 1,
    .run = events,
};
