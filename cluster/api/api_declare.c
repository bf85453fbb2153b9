// vm.declare_dead, cluster.declare_dead: a person says what no host can know
#include <string.h>

#include "base/log.h"
#include "cluster/api/api.h"
#include "cluster/manager/declare.h"

// What the person was shown, which the request repeats. 0 or a sentence.
static int take_number(struct api_call *call, const char *name, uint64_t *number)
{
    const json_t *value = json_object_get(call->params, name);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return error_set(&call->err, EINVAL,
                         "\"%s\" must be the number that was shown to the person", name);
    *number = (uint64_t)json_integer_value(value);
    return 0;
}

static int take_seen(struct api_call *call, bool machine, struct declaration *seen)
{
    seen->host = api_text(call, "host", true);
    int r = seen->host ? take_number(call, "incarnation", &seen->incarnation) : -call->err.code;
    return !r && machine ? take_number(call, "epoch", &seen->epoch) : r;
}

static int refused(struct api_call *call, int r)
{
    if (r == -EBUSY || r == -ESTALE)
        call->code = "wrong-state";
    if (r == -ENOENT)
        call->code = "not-found";
    return r;
}

static int fill_machine(struct api_call *call, struct change *change)
{
    struct declaration seen;
    const struct machine_entry *entry = api_find_machine(call);
    int r = entry ? take_seen(call, true, &seen) : -call->err.code;
    return r ? r
             : refused(call, declare_machine_dead(&call->view, entry, &seen, change, &call->err));
}

int api_vm_declare_dead(struct api_call *call)
{
    int r = api_change(call, fill_machine);
    if (!r)
        log_warning("a person has declared machine '%s' dead", api_text(call, "name", true));
    return r;
}

static int fill_host(struct api_call *call, struct change *change)
{
    struct declaration seen;
    int r = take_seen(call, false, &seen);
    return r ? r : refused(call, declare_host_dead(&call->view, &seen, change, &call->err));
}

int api_cluster_declare_dead(struct api_call *call)
{
    int r = api_change(call, fill_host);
    if (!r)
        log_warning("a person has declared host '%s' dead", api_text(call, "host", true));
    return r;
}
