// The network hears where a machine is after a move. The guest's driver says it where it can; the
// host says it too, several times: a frame may get lost, a switch may just have got the port up,
// and a guest that is paused or has another driver says nothing. Without it switches send what is
// meant for the machine to where it was, for minutes.
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "devices/virtio/virtio_net.h"
#include "vmm/machine_internal.h"
#include "vmm/machine_migration.h"

// After the first: 50, 150, 250, 350 and 450 ms later, one after the other.
enum { REPETITIONS = 5, FIRST_MS = 50, STEP_MS = 100 };

struct machine_announcer {
    uv_timer_t timer;
    struct machine *machine;
    unsigned repetition;
};

static void announce_cards(struct machine *m)
{
    for (struct device *d = m->devices; d; d = d->next)
        if (strcmp(d->ops->kind, "virtio-net") == 0)
            virtio_net_announce_for_guest(d);
}

static void on_timer(uv_timer_t *timer)
{
    struct machine_announcer *announcer = timer->data;
    announce_cards(announcer->machine);
    if (++announcer->repetition == REPETITIONS)
        machine_announce_stop(announcer->machine);
    else
        uv_timer_start(timer, on_timer, FIRST_MS + STEP_MS * announcer->repetition, 0);
}

void machine_announce(struct machine *m)
{
    bool cards = false;
    for (struct device *d = m->devices; d; d = d->next) {
        if (strcmp(d->ops->kind, "virtio-net") != 0)
            continue;
        virtio_net_announce(d);
        cards = true;
    }
    if (!cards || m->announcer)
        return;
    announce_cards(m);
    struct machine_announcer *announcer = calloc(1, sizeof(*announcer));
    if (!announcer || uv_timer_init(m->loop, &announcer->timer) != 0) {
        log_warning("the network was told only once where the machine is: no memory");
        free(announcer);
        return;
    }
    announcer->machine = m;
    announcer->timer.data = announcer;
    m->announcer = announcer;
    uv_timer_start(&announcer->timer, on_timer, FIRST_MS, 0);
}

static void free_announcer(uv_handle_t *handle)
{
    free(handle->data);
}

void machine_announce_stop(struct machine *m)
{
    if (m->announcer)
        uv_close((uv_handle_t *)&m->announcer->timer, free_announcer);
    m->announcer = NULL;
}
