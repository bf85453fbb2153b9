#include "vmm/control_cpu.h"

#include <errno.h>
#include <unistd.h>

#include "vmm/cpu_control.h"
#include "vmm/machine_migration.h"

// The board comes with the request: a machine opens nothing by name.
static int take_board(struct control_request *request, const json_t *params, int *fd,
                      struct error *err)
{
    const json_t *board = json_object_get(params, "board");
    *fd = -1;
    if (!board)
        return 0;
    int rc = control_request_take_fd(request, board, err);
    if (rc < 0)
        return rc;
    *fd = rc;
    return 0;
}

// The description went to the target, or into the snapshot, at the beginning: a change that came
// after it would be confirmed and then lost.
static int may_change(const struct machine *machine, struct error *err)
{
    if (machine_is_held(machine))
        return error_set(
            err, EBUSY,
            "CPU time can't be changed while a migration or snapshot is under way: try "
            "again when it's over");
    if (machine_is_in_doubt(machine))
        return error_set(err, EBUSY,
                         "CPU time can't be changed: the machine may be running where it was moved "
                         "to");
    return 0;
}

static int change(struct machine *machine, struct control_request *request, const json_t *params,
                  struct error *err)
{
    struct cpu_settings settings = machine_config(machine)->cpu_time;
    struct cpu_prepared prepared = {.backend = CPU_BACKEND_OWN, .board_fd = -1};
    int rc = may_change(machine, err);
    if (rc < 0)
        return rc;
    rc = cpu_settings_from_json(&settings, json_object_get(params, "cpu_time"), err);
    if (rc == 0)
        rc = take_board(request, params, &prepared.board_fd, err);
    // A machine that asked for nothing so far is sliced by ferry from now on.
    return rc < 0 ? rc : machine_set_cpu_time(machine, &settings, &prepared, err);
}

void control_cpu(struct machine *machine, struct control_request *request, json_t *params)
{
    struct error err = {0};
    if (json_object_get(params, "cpu_time") && change(machine, request, params, &err) < 0)
        control_request_fail_error(request, &err);
    else
        control_request_reply(request, cpu_settings_to_json(&machine_config(machine)->cpu_time));
}
