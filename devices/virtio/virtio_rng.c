#include "devices/virtio/virtio_rng.h"

#include <errno.h>
#include <stdlib.h>

#include "base/ids.h"
#include "devices/virtio/kinds.h"

enum {
    QUEUE_SIZE = 64,
    // A guest may offer gigabytes; it gets this many bytes a request, and asks again.
    BYTES_LIMIT = 4096,
    // Chains a turn: 64 KiB of entropy, some hundred microseconds.
    TURN = 16,
};

struct virtio_rng {
    struct virtio_device virtio; // first
    struct virtqueue_chain chain;
};

// Random bytes straight into the guest's buffer; returns how many.
static uint32_t fill(const struct virtqueue_chain *chain)
{
    uint32_t done = 0;
    for (unsigned i = chain->out_count; i < chain->out_count + chain->in_count; i++) {
        size_t bytes = chain->iov[i].iov_len;
        if (bytes > BYTES_LIMIT - done)
            bytes = BYTES_LIMIT - done;
        if (bytes == 0 || random_bytes(chain->iov[i].iov_base, bytes) < 0)
            break;
        done += (uint32_t)bytes;
    }
    return done;
}

static bool rng_serve(struct virtio_device *d, unsigned index)
{
    struct virtio_rng *rng = (struct virtio_rng *)d; // its first member
    struct virtio_queue *q = &d->queues[index];
    bool again = true;
    virtqueue_kicks_off(&q->ring);
    for (unsigned n = 0; n < TURN; n++) {
        if (!virtqueue_next(&q->ring, &rng->chain, &again))
            break;
        uint32_t written = fill(&rng->chain);
        virtqueue_push(&q->ring, &rng->chain, written);
        virtio_queue_count_bytes(q, written);
    }
    virtqueue_publish(&q->ring);
    return again;
}

static void rng_destroy(struct virtio_device *d)
{
    free(d);
}

const struct virtio_device_ops virtio_rng_ops = {
    .kind = "virtio-rng",
    .virtio_id = 4,
    .class_code = 0x00ff00,
    .serve = rng_serve,
    .destroy = rng_destroy,
};

int virtio_rng_create(struct device **device, const struct virtio_environment *env,
                      struct error *err)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    if (!rng)
        return error_set(err, ENOMEM, "random number generator '%s': no memory", env->id);
    int rc = virtio_device_init(&rng->virtio, &virtio_rng_ops, env, 0, 1, QUEUE_SIZE, err);
    if (rc < 0) {
        free(rng);
        return rc;
    }
    *device = &rng->virtio.device;
    return 0;
}
