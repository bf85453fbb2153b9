#include "cluster/api/waiting.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>
#include <uv.h>

#include "base/control_server.h"
#include "base/local_socket.h"
#include "base/log.h"
#include "base/runtime_dir.h"
#include "cluster/api/api.h"

struct door {
    const struct waiting *waiting;
    uv_loop_t loop;
    struct control_server *server;
    bool done;
};

static void answered(void *opaque)
{
    struct door *door = opaque;
    control_server_destroy(door->server);
    door->server = NULL;
}

// Waits for the network and the disk, in the loop: nothing else is going on, and who asks meanwhile
// has to know what came of it anyway.
static void prepare(struct door *door, struct control_request *request, bool found,
                    const char *join, const char *role, const char *backup)
{
    struct error err = {0};
    if (door->done) {
        control_request_fail(request, "busy", "this host is just becoming a member");
        return;
    }
    void *context = door->waiting->context;
    int r = backup ? door->waiting->restore(context, backup, &err)
                   : door->waiting->prepare(context, found, join, role, &err);
    if (r) {
        log_warning("becoming a member: %s", err.message);
        control_request_fail_error(request, &err);
        return;
    }
    door->done = true;
    control_request_reply(request, json_pack("{s:b}", "prepared", 1));
    control_server_drain(door->server, answered, door);
}

static void call_init(void *opaque, struct control_request *request, json_t *params)
{
    struct door *door = opaque;
    struct settings_record settings;
    struct error err = {0};
    // What would be refused later is refused before anything is made.
    if (api_take_settings(params, door->waiting->election_max_ns, &settings, &err))
        control_request_fail_error(request, &err);
    else
        prepare(door, request, true, NULL, NULL, NULL);
}

static void call_join(void *opaque, struct control_request *request, json_t *params)
{
    const char *token = json_string_value(json_object_get(params, "token"));
    const json_t *role = json_object_get(params, "role");
    if (!token)
        control_request_fail(request, "bad-params", "\"token\" must be a text: TOKEN@HOST:PORT");
    else if (role && !json_is_string(role))
        control_request_fail(request, "bad-params", "\"role\" must be a text");
    else
        prepare(opaque, request, false, token, json_string_value(role), NULL);
}

static void call_restore(void *opaque, struct control_request *request, json_t *params)
{
    const char *path = json_string_value(json_object_get(params, "file"));
    if (!path || path[0] != '/')
        control_request_fail(request, "bad-params", "\"file\" must be an absolute path");
    else
        prepare(opaque, request, false, NULL, NULL, path);
}

static void call_other(void *opaque, struct control_request *request, json_t *params)
{
    control_request_fail(request, "wrong-state",
                         "this host belongs to no cluster yet: `ferry cluster init` founds one, "
                         "`ferry cluster join TOKEN@HOST:PORT` joins one");
}

// All that a ferryd of a cluster answers: nobody shall be told that there is no such thing.
static const struct control_method methods[] = {
    {"cluster.init", call_init},
    {"cluster.restore", call_restore},
    {"cluster.join", call_join},
    {"cluster.status", call_other},
    {"cluster.hosts", call_other},
    {"cluster.token", call_other},
    {"cluster.drain", call_other},
    {"cluster.undrain", call_other},
    {"cluster.remove", call_other},
    {"cluster.voter", call_other},
    {"cluster.release", call_other},
    {"cluster.declare_dead", call_other},
    {"cluster.clients", call_other},
    {"cluster.client_certificate", call_other},
    {"cluster.client_revoke", call_other},
    {"vm.create", call_other},
    {"vm.list", call_other},
    {"vm.show", call_other},
    {"vm.start", call_other},
    {"vm.stop", call_other},
    {"vm.delete", call_other},
    {"vm.migrate", call_other},
    {"vm.cancel_move", call_other},
    {"vm.explain", call_other},
    {"vm.events", call_other},
    {"vm.declare_dead", call_other},
    {"vm.stream", call_other},
    {NULL, NULL},
};
static const char *const features[] = {"waiting", NULL};

int waiting_run(const struct waiting *waiting, struct error *err)
{
    struct door door = {.waiting = waiting};
    struct control_service service = {.methods = methods, .features = features, .opaque = &door};
    struct runtime_dir dir;
    char path[PATH_MAX + 16];
    int r = runtime_dir_open(&dir, waiting->runtime_dir, err);
    if (r)
        return r;
    snprintf(path, sizeof(path), "%s/.ferryd.sock", dir.path);
    runtime_dir_close(&dir);
    r = uv_loop_init(&door.loop);
    if (r)
        return error_set(err, -r, "event loop: %s", uv_strerror(r));
    int fd = local_socket_listen(path, err);
    r = fd < 0 ? fd : control_server_create(&door.server, &door.loop, fd, &service, err);
    if (!r) {
        log_info("waiting for `ferry cluster init` or `ferry cluster join`");
        uv_run(&door.loop, UV_RUN_DEFAULT);
    } else if (fd >= 0) {
        close(fd);
    }
    uv_run(&door.loop, UV_RUN_DEFAULT);
    uv_loop_close(&door.loop);
    if (!r && !door.done)
        r = error_set(err, EIO, "the socket for clients has failed");
    return r;
}
