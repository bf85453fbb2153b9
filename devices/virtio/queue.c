#include "devices/virtio/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rings are little-endian and accessed as they are"
#endif

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

// Offsets within the available and used rings (2.7.6, 2.7.8).
enum {
    DESCRIPTOR_SIZE = 16,
    AVAILABLE_FLAGS = 0,
    AVAILABLE_INDEX = 2,
    AVAILABLE_RING = 4,
    USED_FLAGS = 0,
    USED_INDEX = 2,
    USED_RING = 4,
    USED_ELEMENT_SIZE = 8,
};

static uint16_t load_u16(const void *p)
{
    return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
}

static void store_used_u16(struct virtqueue *q, uint64_t offset, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)(q->used + offset), value, __ATOMIC_RELAXED);
    guest_memory_written(q->memory, q->used_gpa + offset, sizeof(value));
}

static uint64_t used_event_offset(const struct virtqueue *q)
{
    return AVAILABLE_RING + (uint64_t)q->size * 2;
}

static uint64_t available_event_offset(const struct virtqueue *q)
{
    return USED_RING + (uint64_t)q->size * USED_ELEMENT_SIZE;
}

static void count(_Atomic uint64_t *counter, uint64_t by)
{
    // One thread counts, others only look: a plain add of a relaxed value is enough.
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

void virtqueue_init(struct virtqueue *q, struct guest_memory *memory,
                    const struct virtqueue_owner *owner)
{
    memset(q, 0, sizeof(*q));
    q->memory = memory;
    q->owner = owner;
}

int virtqueue_enable(struct virtqueue *q)
{
    if (q->size == 0 || q->size > VIRTQUEUE_SIZE_LIMIT || (q->size & (q->size - 1)) != 0)
        return -EINVAL;
    if (q->descriptors_gpa % 16 != 0 || q->available_gpa % 2 != 0 || q->used_gpa % 4 != 0)
        return -EINVAL;
    q->descriptors =
        guest_memory_slice(q->memory, q->descriptors_gpa, (uint64_t)q->size * DESCRIPTOR_SIZE);
    // Each ring ends with an event index of two bytes, negotiated or not (2.7).
    q->available = guest_memory_slice(q->memory, q->available_gpa, used_event_offset(q) + 2);
    q->used = guest_memory_slice(q->memory, q->used_gpa, available_event_offset(q) + 2);
    if (!q->descriptors || !q->available || !q->used)
        return -EINVAL;
    q->next_available = q->next_used = q->published = 0;
    q->broken = false;
    q->interrupt_due = false;
    q->enabled = true;
    return 0;
}

void virtqueue_disable(struct virtqueue *q)
{
    q->enabled = q->broken = q->interrupt_due = false;
    q->size = 0;
    q->descriptors_gpa = q->available_gpa = q->used_gpa = 0;
    q->descriptors = q->available = NULL;
    q->used = NULL;
    q->next_available = q->next_used = q->published = 0;
}

int virtqueue_break(struct virtqueue *q, const char *why)
{
    if (!q->broken) {
        q->broken = true;
        q->owner->broken(q, why);
    }
    return -EPROTO;
}

// Copies one descriptor out of guest memory, once.
static struct descriptor load_descriptor(const uint8_t *table, uint32_t index)
{
    struct descriptor d;
    memcpy(&d, table + (size_t)index * DESCRIPTOR_SIZE, sizeof(d));
    // Compiler barrier: without it the copy could be left out and a field that was checked could
    // be read a second time after the guest changed it.
    atomic_signal_fence(memory_order_seq_cst);
    return d;
}

static const char *add_segment(struct virtqueue *q, struct virtqueue_chain *chain,
                               const struct descriptor *d)
{
    bool writable = d->flags & VIRTQ_DESC_F_WRITE;
    if (!writable && chain->in_count > 0)
        return "a readable descriptor behind a writable one";
    if (d->length == 0)
        return NULL; // legal, and nothing to remember
    uint32_t *bytes = writable ? &chain->in_bytes : &chain->out_bytes;
    if (d->length > UINT32_MAX - *bytes)
        return "a chain of more than 4 GiB";
    void *hva = guest_memory_slice(q->memory, d->address, d->length);
    if (!hva)
        return "a descriptor outside of RAM";
    unsigned at = chain->out_count + chain->in_count;
    chain->iov[at] = (struct iovec){.iov_base = hva, .iov_len = d->length};
    chain->gpa[at] = d->address;
    *bytes += d->length;
    if (writable)
        chain->in_count++;
    else
        chain->out_count++;
    return NULL;
}

// Enters an indirect table (2.7.5.3): `*table` and `*entries` become the table's.
static const char *enter_indirect(struct virtqueue *q, const struct descriptor *d,
                                  const uint8_t **table, uint32_t *entries)
{
    if (!q->indirect)
        return "an indirect descriptor without that feature";
    if (d->flags & VIRTQ_DESC_F_NEXT)
        return "a descriptor both indirect and chained";
    if (d->length == 0 || d->length % DESCRIPTOR_SIZE != 0)
        return "an indirect table of a broken size";
    const uint8_t *hva = guest_memory_slice(q->memory, d->address, d->length);
    if (!hva)
        return "an indirect table outside of RAM";
    *table = hva;
    *entries = d->length / DESCRIPTOR_SIZE;
    return NULL;
}

// Walks the chain that starts at chain->head. NULL, or what is wrong with it.
static const char *collect_chain(struct virtqueue *q, struct virtqueue_chain *chain)
{
    const uint8_t *table = q->descriptors;
    uint32_t entries = q->size;
    uint32_t index = chain->head;
    bool inside_indirect = false;
    // Bounds every walk, so a chain that loops ends here as one that is too long.
    for (unsigned walked = 0; walked < q->size;) {
        if (index >= entries)
            return "a descriptor index beyond its table";
        struct descriptor d = load_descriptor(table, index);
        const char *why;
        if (d.flags & VIRTQ_DESC_F_INDIRECT) {
            if (inside_indirect)
                return "an indirect table inside an indirect table";
            why = enter_indirect(q, &d, &table, &entries);
            if (why)
                return why;
            inside_indirect = true;
            index = 0;
            continue; // the entry itself counts for nothing, and there is only one
        }
        why = add_segment(q, chain, &d);
        if (why)
            return why;
        if (!(d.flags & VIRTQ_DESC_F_NEXT))
            return NULL;
        index = d.next;
        walked++;
    }
    return "a chain longer than its queue";
}

int virtqueue_pop(struct virtqueue *q, struct virtqueue_chain *chain)
{
    if (!q->enabled || q->broken)
        return 0;
    // Acquire: without it the ring entry or the descriptors below could be read before the index,
    // and be those of an older request.
    uint16_t available = __atomic_load_n(
        (const uint16_t *)(const void *)(q->available + AVAILABLE_INDEX), __ATOMIC_ACQUIRE);
    uint16_t waiting = (uint16_t)(available - q->next_available);
    if (waiting == 0)
        return 0;
    // A driver has `size` descriptors, so no more chains than that can be waiting and in flight.
    if (waiting > q->size || virtqueue_in_flight(q) >= q->size)
        return virtqueue_break(q, "more chains available than the queue has descriptors");
    uint64_t slot = q->next_available & (q->size - 1u);
    chain->head = load_u16(q->available + AVAILABLE_RING + slot * 2);
    chain->out_count = chain->in_count = 0;
    chain->out_bytes = chain->in_bytes = 0;
    const char *why = collect_chain(q, chain);
    if (why)
        return virtqueue_break(q, why);
    q->next_available++;
    return 1;
}

uint16_t virtqueue_waiting(const struct virtqueue *q)
{
    if (!q->enabled || q->broken)
        return 0;
    return (uint16_t)(load_u16(q->available + AVAILABLE_INDEX) - q->next_available);
}

void virtqueue_rewind(struct virtqueue *q, uint16_t n)
{
    assert(n <= virtqueue_in_flight(q));
    q->next_available = (uint16_t)(q->next_available - n);
}

void virtqueue_push(struct virtqueue *q, const struct virtqueue_chain *chain, uint32_t written)
{
    virtqueue_chain_written(q, chain, 0, written);
    virtqueue_push_head(q, chain->head, written);
}

void virtqueue_push_head(struct virtqueue *q, uint16_t head, uint32_t written)
{
    assert(virtqueue_in_flight(q) > 0);
    uint64_t slot = q->next_used & (q->size - 1u);
    uint32_t element[2] = {head, written};
    memcpy(q->used + USED_RING + slot * USED_ELEMENT_SIZE, element, sizeof(element));
    guest_memory_written(q->memory, q->used_gpa + USED_RING + slot * USED_ELEMENT_SIZE,
                         sizeof(element));
    q->next_used++;
    count(&q->requests, 1);
}

// 2.7.10: an event index asks for a notification when the index moved past it.
static bool index_passed(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

void virtqueue_publish(struct virtqueue *q)
{
    uint16_t before = q->published;
    if (q->next_used == before && !q->interrupt_due)
        return;
    // Release: without it the driver could see the new index before the elements and the data they
    // stand for.
    __atomic_store_n((uint16_t *)(void *)(q->used + USED_INDEX), q->next_used, __ATOMIC_RELEASE);
    guest_memory_written(q->memory, q->used_gpa + USED_INDEX, sizeof(uint16_t));
    q->published = q->next_used;
    // Full barrier: the index must be visible before the driver's wish is read. Without it this
    // sequence loses an interrupt: we read the old event index, the driver writes the new one, sees
    // the old used index and sleeps, and only then our index becomes visible.
    atomic_thread_fence(memory_order_seq_cst);
    bool wanted;
    if (q->event_index)
        wanted = index_passed(load_u16(q->available + used_event_offset(q)), q->published, before);
    else
        wanted = !(load_u16(q->available + AVAILABLE_FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT);
    if (!wanted && !q->interrupt_due) {
        count(&q->suppressed, 1);
        return;
    }
    q->interrupt_due = false;
    count(&q->interrupts, 1);
    q->owner->interrupt(q);
}

void virtqueue_kicks_off(struct virtqueue *q)
{
    // With event indexes nothing is to be done: the index stays where it was, and the driver kicks
    // again only when it passes that place, 2^16 requests later.
    if (q->enabled && !q->broken && !q->event_index)
        store_used_u16(q, USED_FLAGS, VIRTQ_USED_F_NO_NOTIFY);
}

bool virtqueue_kicks_on(struct virtqueue *q)
{
    if (!q->enabled || q->broken)
        return false;
    if (q->event_index)
        store_used_u16(q, available_event_offset(q), q->next_available);
    else
        store_used_u16(q, USED_FLAGS, 0);
    // Full barrier: our wish must be visible before the driver's index is read. Without it this
    // sequence loses a kick: we read the old index, the driver adds a request, sees the old wish
    // and doesn't kick, and only then our wish becomes visible; the request waits for ever.
    atomic_thread_fence(memory_order_seq_cst);
    return load_u16(q->available + AVAILABLE_INDEX) != q->next_available;
}

bool virtqueue_next(struct virtqueue *q, struct virtqueue_chain *chain, bool *again)
{
    int rc = virtqueue_pop(q, chain);
    bool more = rc == 0 && virtqueue_kicks_on(q);
    if (more)
        rc = virtqueue_pop(q, chain);
    if (rc <= 0)
        *again = more && rc == 0;
    return rc > 0;
}

// Calls visit for each piece of [offset, offset + length) of the readable or writable segments;
// returns the bytes visited, which are fewer when the segments end.
static size_t visit_range(const struct virtqueue_chain *chain, bool writable, size_t offset,
                          size_t length,
                          void (*visit)(const struct virtqueue_chain *chain, unsigned segment,
                                        size_t skip, size_t bytes, void *opaque),
                          void *opaque)
{
    unsigned at = writable ? chain->out_count : 0;
    unsigned end = at + (writable ? chain->in_count : chain->out_count);
    size_t done = 0;
    for (; at < end && done < length; at++) {
        size_t here = chain->iov[at].iov_len;
        if (offset >= here) {
            offset -= here;
            continue;
        }
        size_t bytes = here - offset;
        if (bytes > length - done)
            bytes = length - done;
        visit(chain, at, offset, bytes, opaque);
        done += bytes;
        offset = 0;
    }
    return done;
}

static void copy_out(const struct virtqueue_chain *chain, unsigned segment, size_t skip,
                     size_t bytes, void *opaque)
{
    uint8_t **to = opaque;
    memcpy(*to, (const uint8_t *)chain->iov[segment].iov_base + skip, bytes);
    *to += bytes;
}

size_t virtqueue_chain_read(const struct virtqueue_chain *chain, size_t offset, void *out,
                            size_t length)
{
    uint8_t *to = out;
    return visit_range(chain, false, offset, length, copy_out, &to);
}

static void copy_in(const struct virtqueue_chain *chain, unsigned segment, size_t skip,
                    size_t bytes, void *opaque)
{
    const uint8_t **from = opaque;
    memcpy((uint8_t *)chain->iov[segment].iov_base + skip, *from, bytes);
    *from += bytes;
}

size_t virtqueue_chain_write(const struct virtqueue_chain *chain, size_t offset, const void *bytes,
                             size_t length)
{
    const uint8_t *from = bytes;
    return visit_range(chain, true, offset, length, copy_in, &from);
}

struct slice {
    struct iovec *iov;
    unsigned count;
};

static void add_to_slice(const struct virtqueue_chain *chain, unsigned segment, size_t skip,
                         size_t bytes, void *opaque)
{
    struct slice *s = opaque;
    s->iov[s->count++] = (struct iovec){.iov_base = (uint8_t *)chain->iov[segment].iov_base + skip,
                                        .iov_len = bytes};
}

unsigned virtqueue_chain_slice(const struct virtqueue_chain *chain, bool writable, size_t offset,
                               size_t length, struct iovec *iov)
{
    struct slice s = {.iov = iov};
    size_t found = visit_range(chain, writable, offset, length, add_to_slice, &s);
    assert(found == length);
    return s.count;
}

static void mark(const struct virtqueue_chain *chain, unsigned segment, size_t skip, size_t bytes,
                 void *opaque)
{
    guest_memory_written(opaque, chain->gpa[segment] + skip, bytes);
}

void virtqueue_chain_written(const struct virtqueue *q, const struct virtqueue_chain *chain,
                             size_t offset, size_t length)
{
    visit_range(chain, true, offset, length, mark, q->memory);
}

static const struct state_field queue_fields[] = {
    STATE_FIELD(STATE_U16, struct virtqueue, size),
    STATE_FIELD(STATE_BOOL, struct virtqueue, enabled),
    STATE_FIELD(STATE_U64, struct virtqueue, descriptors_gpa),
    STATE_FIELD(STATE_U64, struct virtqueue, available_gpa),
    STATE_FIELD(STATE_U64, struct virtqueue, used_gpa),
    STATE_FIELD(STATE_U16, struct virtqueue, next_available),
    STATE_FIELD(STATE_U16, struct virtqueue, next_used),
    STATE_FIELD(STATE_BOOL, struct virtqueue, broken),
    {.name = NULL},
};

static const struct state_section queue_section = {
    .name = "virtqueue", .version = 1, .fields = queue_fields};

void virtqueue_save(const struct virtqueue *q, struct byte_writer *writer)
{
    assert(virtqueue_in_flight(q) == 0 && q->published == q->next_used);
    state_section_save(&queue_section, q, writer);
}

int virtqueue_load(struct virtqueue *q, struct byte_reader *reader, struct error *err)
{
    struct virtqueue loaded = *q;
    int rc = state_section_load(&queue_section, &loaded, reader, err);
    if (rc < 0)
        return rc;
    uint16_t position = loaded.next_available;
    bool broken = loaded.broken;
    if (position != loaded.next_used)
        return error_set(err, EBADMSG, "a virtqueue was saved with requests in flight");
    if (!loaded.enabled && (position != 0 || broken))
        return error_set(err, EBADMSG, "a disabled virtqueue was saved with a position");
    if (loaded.enabled && virtqueue_enable(&loaded) < 0)
        return error_set(err, EBADMSG, "a virtqueue's rings are misplaced or of a wrong size");
    loaded.next_available = loaded.next_used = loaded.published = position;
    loaded.broken = broken;
    // Whether the last interrupt before the save was delivered isn't known: one too many is
    // harmless, one too few is a hang.
    loaded.interrupt_due = loaded.enabled && !broken;
    *q = loaded;
    return 0;
}
