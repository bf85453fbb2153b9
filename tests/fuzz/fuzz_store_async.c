// Bytes as what a member says to the client that never waits, whatever that client has asked for
// meanwhile. The connections are made up here: what arrives are whole frames. Each request must
// have one outcome at most, a result must be to the question that was asked, and what is handed out
// must be readable.
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cluster/member/connection.h"
#include "cluster/member/protocol.h"
#include "cluster/store/async.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ASKED_MAX = 64, WATCHES_MAX = 16, OPS = 3 };

struct asked {
    bool is_txn;
    unsigned outcomes;
    struct store_op ops[2][OPS];
    size_t count[2];
};

struct watching {
    struct store_watch *watch;
    uint64_t next;
};

static uv_loop_t loop;
static bool has_loop;
static struct store_async *async;
static struct asked asked[ASKED_MAX];
static struct watching watching[WATCHES_MAX];
static unsigned asked_count, watch_count, open_requests;
static uint8_t mood; // what callbacks do
static uint64_t last_number;

// --- Connections that are not there
// -------------------------------------------------------------------------

struct connection {
    const struct connection_callbacks *callbacks;
    void *owner;
};

static struct connection the_one;
static bool is_dialled, is_ready;

int connection_set_init(struct connection_set *set, uv_loop_t *on)
{
    *set = (struct connection_set){.loop = on};
    int error = uv_prepare_init(on, &set->flush);
    set->flush.data = set;
    return error;
}

void connection_set_close(struct connection_set *set, uv_close_cb closed)
{
    is_dialled = false;
    uv_close((uv_handle_t *)&set->flush, closed);
}

struct connection *connection_dial(struct connection_set *set, const char *address,
                                   const struct tls_credentials *tls,
                                   const struct connection_callbacks *callbacks, void *owner)
{
    if (strlen(address) >= MEMBER_ADDRESS_SIZE)
        __builtin_trap();
    the_one = (struct connection){.callbacks = callbacks, .owner = owner};
    is_dialled = true;
    is_ready = false;
    return &the_one;
}

void connection_close(struct connection *connection)
{
    is_dialled = false;
}

void connection_send2(struct connection *connection, uint16_t type, const void *head,
                      size_t head_length, const void *rest, size_t rest_length)
{
    if (!is_dialled || !is_ready || type != PROTOCOL_REQUEST || head_length != 9)
        __builtin_trap();
    last_number = bytes_get_u64(head);
}

// --- The user of the client
// ---------------------------------------------------------------------------------

static unsigned sum; // of all that was handed out: it is read

static void read_bytes(struct store_bytes bytes)
{
    for (size_t i = 0; i < bytes.length; i++)
        sum += bytes.data[i];
}

static void ask(uint8_t what);

static void act(void)
{
    uint8_t what = mood;
    mood = 0; // once
    if (what % 4 == 1)
        ask(what >> 2);
    if (what % 4 == 2 && watch_count && watching[watch_count - 1].watch) {
        store_async_unwatch(watching[watch_count - 1].watch);
        watching[watch_count - 1].watch = NULL;
    }
    if (what % 4 == 3) {
        store_async_destroy(async);
        async = NULL;
    }
}

static void txn_done(void *context, const struct store_result *result)
{
    struct asked *a = context;
    open_requests--;
    if (++a->outcomes > 1 || result->status > STORE_STATUS_LAST)
        __builtin_trap();
    for (size_t i = 0; result->status == STORE_OK && i < a->count[!result->succeeded]; i++) {
        const struct store_op_result *op = &result->ops[i];
        if (op->kind != a->ops[!result->succeeded][i].kind)
            __builtin_trap();
        for (size_t k = 0; op->kind == STORE_RANGE && k < op->key_value_count; k++) {
            read_bytes(op->key_values[k].key);
            read_bytes(op->key_values[k].value);
        }
    }
    act();
}

static void lease_done(void *context, enum store_status status, uint64_t lease, uint64_t ttl)
{
    struct asked *a = context;
    open_requests--;
    if (++a->outcomes > 1 || status > STORE_STATUS_LAST)
        __builtin_trap();
    act();
}

static void events(void *context, uint64_t revision, const struct store_event *list, size_t count)
{
    struct watching *w = context;
    if (!w->watch || revision < w->next)
        __builtin_trap();
    w->next = revision + 1;
    for (size_t i = 0; i < count; i++) {
        if (list[i].kind != STORE_PUT && list[i].kind != STORE_DELETE)
            __builtin_trap();
        read_bytes(list[i].key_value.key);
        read_bytes(list[i].key_value.value);
    }
    act();
}

static void ended(void *context, enum store_status status, uint64_t oldest)
{
    struct watching *w = context;
    if (!w->watch)
        __builtin_trap();
    w->watch = NULL;
    act();
}

static void make_op(struct store_op *op, unsigned kind, unsigned number)
{
    static const char *const keys[] = {"a", "b", "c", "d", "e", "f"};
    *op = (struct store_op){.kind = kind == 0   ? STORE_RANGE
                                    : kind == 1 ? STORE_PUT
                                                : STORE_DELETE,
                            .key = store_string(keys[number])};
}

static void ask_txn(struct asked *a, uint8_t what)
{
    struct store_compare compare = {
        .target = STORE_VERSION, .relation = STORE_EQUAL, .key = store_string("a")};
    struct store_txn txn = {.compares = &compare, .compare_count = what & 1};
    a->is_txn = true;
    a->count[0] = what / 2 % (OPS + 1);
    a->count[1] = what / 8 % (OPS + 1);
    for (unsigned side = 0; side < 2; side++)
        for (unsigned i = 0; i < a->count[side]; i++)
            make_op(&a->ops[side][i], (what / 16u + i + side) % 3, i + side * OPS);
    txn.then = a->ops[0];
    txn.then_count = a->count[0];
    txn.otherwise = a->ops[1];
    txn.otherwise_count = a->count[1];
    open_requests++;
    if (store_async_txn(async, &txn, what & 128, txn_done, a) != STORE_OK)
        open_requests--;
}

static void ask(uint8_t what)
{
    static const struct store_watch_callbacks callbacks = {.events = events, .ended = ended};
    if (!async)
        return;
    if (what % 8 == 7) {
        if (watch_count == WATCHES_MAX)
            return;
        struct watching *w = &watching[watch_count++];
        w->watch = store_async_watch(async, store_string("k"), what & 8 ? STORE_REST : STORE_ONE,
                                     (struct store_bytes){0}, what >> 4, &callbacks, w);
        return;
    }
    if (asked_count == ASKED_MAX)
        return;
    struct asked *a = &asked[asked_count++];
    enum store_status status = STORE_OK;
    if (what % 8 == 6) {
        open_requests++;
        if (what & 8)
            status = store_async_grant(async, what >> 4, 1, lease_done, a);
        else if (what & 16)
            status = store_async_renew(async, what >> 5, lease_done, a);
        else
            status = store_async_revoke(async, what >> 5, lease_done, a);
        open_requests -= status != STORE_OK;
    } else {
        ask_txn(a, what);
    }
}

// --- What happens
// ------------------------------------------------------------------------------------------

// Frames are in memory of just their length, so that a read behind them is found.
static void deliver(uint16_t type, uint64_t number, const uint8_t *bytes, size_t length)
{
    if (!is_dialled || !is_ready)
        return;
    uint8_t *frame = malloc(8 + length);
    if (!frame)
        return;
    bytes_put_u64(frame, number);
    memcpy(frame + 8, bytes, length);
    if (!the_one.callbacks->frame(the_one.owner, &the_one, type, frame, 8 + length) && is_dialled) {
        is_dialled = false;
        the_one.callbacks->closed(the_one.owner, &the_one, "an unacceptable frame");
    }
    free(frame);
}

static void fire(uv_handle_t *handle, void *context)
{
    uv_timer_t *timer = (uv_timer_t *)handle;
    if (async && handle->type == UV_TIMER && !uv_is_closing(handle))
        timer->timer_cb(timer);
}

static void step(struct byte_reader *r)
{
    uint8_t what = byte_reader_u8(r), with = byte_reader_u8(r);
    size_t length;
    const uint8_t *bytes;
    switch (what % 8) {
    case 0:
    case 1:
        ask(with);
        break;
    case 2:
    case 3: // an answer, or events, for one of the last requests
    case 4:
        length = byte_reader_u8(r) | (size_t)byte_reader_u8(r) << 8;
        if (length > byte_reader_left(r))
            length = byte_reader_left(r);
        bytes = r->data + r->offset;
        r->offset += length;
        deliver(what % 8 == 4   ? with >> 4
                : what % 8 == 2 ? PROTOCOL_ANSWER
                                : PROTOCOL_EVENTS,
                last_number - with % 16, bytes, length);
        break;
    case 5:
        mood = with;
        break;
    case 6:
        uv_walk(&loop, fire, NULL);
        break;
    case 7:
        if (is_dialled && !is_ready) {
            is_ready = true;
            the_one.callbacks->ready(the_one.owner, &the_one);
        } else if (is_dialled && with & 1) {
            is_dialled = false;
            the_one.callbacks->closed(the_one.owner, &the_one, "closed by the other side");
        }
        break;
    }
}

static void check(void)
{
    struct store_async_status status;
    store_async_inspect(async, &status);
    if (status.requests != open_requests)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store_async_options options = {.addresses = "127.0.0.1:1,unix:/x"};
    struct byte_reader r;
    struct error err;
    byte_reader_init(&r, data, size);
    // Time-outs at once, or none that this could see.
    options.timeout_ns = byte_reader_u8(&r) & 1 ? 1 : 0;
    memset(asked, 0, sizeof(asked));
    memset(watching, 0, sizeof(watching));
    asked_count = watch_count = open_requests = 0;
    last_number = 0;
    mood = 0;
    if (!has_loop && uv_loop_init(&loop))
        __builtin_trap();
    has_loop = true; // one for all inputs: a loop of its own is most of what a short one costs
    if (store_async_create(&async, &loop, &options, &err))
        __builtin_trap();
    while (async && byte_reader_left(&r)) {
        step(&r);
        if (async)
            check();
    }
    if (async)
        store_async_destroy(async);
    async = NULL;
    if (uv_run(&loop, UV_RUN_DEFAULT)) // all handles are closed
        __builtin_trap();
    return 0;
}
