// A guest answers the question for its statistics when it likes: requests wait for that, for a
// moment. Changes of the balloon's size come by the thousand while it is inflated: subscribers hear
// of the last one, a few times a second at most.
#include "vmm/control_balloon.h"

#include <stdlib.h>

#include "base/control_server.h"
#include "vmm/machine_balloon.h"

enum { WAITING_LIMIT = 16, STATISTICS_WAIT_MS = 500, EVENT_PAUSE_MS = 200 };

struct control_balloon {
    struct control_service service;
    struct control *control;
    struct machine *machine;
    struct control_request *waiting[WAITING_LIMIT];
    unsigned waiting_count;
    uint64_t seen; // machine_balloon_count() when the first of them began to wait
    uv_timer_t wait, pause;
    unsigned open_handles;
    json_int_t told; // current_bytes in the last event
};

static void answer_all(struct control_balloon *b)
{
    unsigned count = b->waiting_count;
    b->waiting_count = 0;
    uv_timer_stop(&b->wait);
    for (unsigned i = 0; i < count; i++)
        control_request_reply(b->waiting[i], machine_balloon_status(b->machine));
}

static void on_wait_over(uv_timer_t *timer)
{
    answer_all(timer->data);
}

static void tell_subscribers(struct control_balloon *b)
{
    json_t *status = machine_balloon_status(b->machine);
    json_int_t current = json_integer_value(json_object_get(status, "current_bytes"));
    if (status && current != b->told) {
        b->told = current;
        control_event(b->control, "balloon",
                      json_pack("{s:O, s:O}", "current_bytes",
                                json_object_get(status, "current_bytes"), "target_bytes",
                                json_object_get(status, "target_bytes")));
    }
    json_decref(status);
}

static void on_pause_over(uv_timer_t *timer)
{
    tell_subscribers(timer->data);
}

void control_balloon_changed(struct control_balloon *b)
{
    if (b->waiting_count && machine_balloon_count(b->machine) != b->seen)
        answer_all(b);
    if (!uv_is_active((uv_handle_t *)&b->pause))
        uv_timer_start(&b->pause, on_pause_over, EVENT_PAUSE_MS, 0);
}

// {"size": BYTES}: how much RAM the guest shall make do with; without it only a look.
static void balloon(void *opaque, struct control_request *request, json_t *params)
{
    struct control_balloon *b = opaque;
    struct error err = {0};
    const json_t *size = json_object_get(params, "size");
    if (!machine_has_balloon(b->machine)) {
        control_request_fail(request, "not-supported",
                             "the machine has no balloon: it has to be started with --balloon");
        return;
    }
    if (size && (!json_is_integer(size) || json_integer_value(size) < 0)) {
        control_request_fail(request, "invalid-params", "\"size\" must be a number of bytes");
        return;
    }
    if (size && machine_balloon_set(b->machine, (uint64_t)json_integer_value(size), &err) != 0) {
        control_request_fail_error(request, &err);
        return;
    }
    bool comes = b->waiting_count > 0;
    if (!comes && !size) {
        b->seen = machine_balloon_count(b->machine);
        comes = machine_balloon_ask(b->machine);
        if (comes)
            uv_timer_start(&b->wait, on_wait_over, STATISTICS_WAIT_MS, 0);
    }
    if (size || !comes || b->waiting_count == WAITING_LIMIT)
        control_request_reply(request, machine_balloon_status(b->machine));
    else
        b->waiting[b->waiting_count++] = request;
}

static const struct control_method methods[] = {{"balloon", balloon}, {NULL, NULL}};
static const char *const features[] = {"balloon", NULL};

int control_balloon_create(struct control_balloon **out, uv_loop_t *loop, struct control *control,
                           struct machine *machine, struct error *err)
{
    struct control_balloon *b = calloc(1, sizeof(*b));
    if (!b)
        return error_set(err, ENOMEM, "control socket: out of memory");
    b->control = control;
    b->machine = machine;
    b->told = -1;
    b->service = (struct control_service){methods, features, b, NULL};
    uv_timer_init(loop, &b->wait);
    uv_timer_init(loop, &b->pause);
    b->wait.data = b->pause.data = b;
    b->open_handles = 2;
    control_add_service(control, &b->service);
    *out = b;
    return 0;
}

static void on_closed(uv_handle_t *handle)
{
    struct control_balloon *b = handle->data;
    if (--b->open_handles == 0)
        free(b);
}

void control_balloon_destroy(struct control_balloon *b)
{
    if (!b)
        return;
    for (unsigned i = 0; i < b->waiting_count; i++)
        control_request_fail(b->waiting[i], "failed", "the machine has ended");
    b->waiting_count = 0;
    uv_close((uv_handle_t *)&b->wait, on_closed);
    uv_close((uv_handle_t *)&b->pause, on_closed);
}
