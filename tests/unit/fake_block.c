#include "tests/unit/fake_block.h"

#include <stdlib.h>
#include <string.h>

static struct fake_block *from_backend(struct block_backend *backend)
{
    return (struct fake_block *)backend; // its first member
}

static void carry_out(struct fake_block *f, struct block_request *r)
{
    uint8_t *at = f->bytes + r->offset;
    if (r->operation == BLOCK_READ || r->operation == BLOCK_WRITE) {
        for (unsigned i = 0; i < r->iov_count; i++) {
            if (r->operation == BLOCK_READ)
                memcpy(r->iov[i].iov_base, at, r->iov[i].iov_len);
            else
                memcpy(at, r->iov[i].iov_base, r->iov[i].iov_len);
            at += r->iov[i].iov_len;
        }
    } else if (r->operation == BLOCK_WRITE_ZEROES) {
        memset(at, 0, r->length);
    }
}

static void complete(struct fake_block *f, struct block_request *r)
{
    r->result = f->failure;
    if (r->result == 0)
        carry_out(f, r);
    f->backend.completed(f->backend.opaque, r);
}

void fake_block_release(void *fake)
{
    struct fake_block *f = fake;
    while (f->held) {
        struct block_request *r = f->held;
        f->held = r->next;
        f->held_count--;
        complete(f, r);
    }
    f->backend.settled(f->backend.opaque);
}

static int attach(struct block_backend *backend, struct io_thread *thread)
{
    from_backend(backend)->attached = true;
    return 0;
}

static void detach(struct block_backend *backend)
{
    from_backend(backend)->attached = false;
}

static void submit(struct block_backend *backend, struct block_request *r)
{
    struct fake_block *f = from_backend(backend);
    f->operations[r->operation]++;
    if (!f->hold) {
        complete(f, r);
        return;
    }
    r->next = f->held;
    f->held = r;
    if (++f->held_count > f->held_most)
        f->held_most = f->held_count;
}

static void kick(struct block_backend *backend)
{
    from_backend(backend)->kicks++;
}

static void drain(struct block_backend *backend)
{
    from_backend(backend)->drains++;
    fake_block_release(backend);
}

static int refresh(struct block_backend *backend)
{
    return 0;
}

static void destroy(struct block_backend *backend)
{
    from_backend(backend)->destroyed = true;
}

static const struct block_backend_ops fake_ops = {
    .attach = attach,
    .detach = detach,
    .submit = submit,
    .kick = kick,
    .drain = drain,
    .refresh = refresh,
    .destroy = destroy,
};

void fake_block_init(struct fake_block *f, uint64_t size)
{
    memset(f, 0, sizeof(*f));
    f->backend = (struct block_backend){.ops = &fake_ops,
                                        .size = size,
                                        .logical_block_size = 512,
                                        .physical_block_size = 4096,
                                        .can_discard = true,
                                        .can_write_zeroes = true};
    f->bytes = calloc(1, size);
}

void fake_block_free(struct fake_block *f)
{
    free(f->bytes);
}
