#include "cluster/records/feed.h"

#include <string.h>

#include "base/clock.h"

enum { CATCH_UP_MS = 500 };

void record_feed_close(struct record_feed *feed)
{
    store_client_destroy(feed->client);
    feed->client = NULL;
}

// ---- the watch ----

static int open_client(struct record_feed *feed, const struct exchange *exchange, struct error *err)
{
    const char *where = exchange->local ? exchange->local : exchange->addresses;
    int r = store_client_create(&feed->client, where, err);
    if (!r && exchange->ca)
        r = store_client_set_tls(feed->client, exchange->certificate, exchange->key, exchange->ca,
                                 err);
    if (r)
        return r;
    store_client_set_sticky(feed->client, true);
    store_client_set_timeout(feed->client, exchange->timeout_ns);
    return 0;
}

static int begin(struct record_feed *feed, const struct exchange *exchange, struct error *err)
{
    struct store_bytes prefix = store_string(RECORD_PREFIX);
    uint8_t end[STORE_KEY_MAX];
    size_t end_length = store_prefix_end(prefix, end);
    struct byte_writer body;
    struct byte_reader answer;
    int r = open_client(feed, exchange, err);
    if (r)
        return r;
    byte_writer_init(&body);
    byte_writer_blob(&body, prefix.data, prefix.length);
    byte_writer_u8(&body, STORE_UNTIL);
    byte_writer_blob(&body, end, end_length);
    byte_writer_u64(&body, feed->through + 1);
    byte_writer_u8(&body, PROTOCOL_WATCH_PROGRESS);
    enum store_status status =
        store_client_request(feed->client, REQUEST_WATCH, body.data, body.length, &answer, err);
    byte_writer_free(&body);
    return status == STORE_OK ? 0 : error_set(err, EAGAIN, "store: %s", store_status_text(status));
}

static bool placement_looks_at(enum record_kind kind)
{
    return kind == RECORD_HOST || kind == RECORD_LIFE || kind == RECORD_MACHINE ||
           kind == RECORD_OWNER || kind == RECORD_TOMBSTONE;
}

static int take_event(struct record_feed *feed, struct record_view *view, bool gone,
                      const struct store_key_value *kv, struct error *err)
{
    struct record_key key;
    if (record_key_parse(kv->key, &key))
        return 0; // of a later version
    feed->placed += placement_looks_at(key.kind);
    if (!gone)
        return record_view_take(view, kv, err);
    record_view_remove(view, &key);
    return 0;
}

// One frame: all changes of some revisions, or how far there were none.
static int take_frame(struct record_feed *feed, struct record_view *view, struct byte_reader *r,
                      struct error *err)
{
    enum store_status status = (enum store_status)byte_reader_u8(r);
    uint64_t revision = byte_reader_u64(r);
    if (status != STORE_OK)
        return error_set(err, EAGAIN, "store: %s", store_status_text(status));
    uint32_t count = byte_reader_u32(r);
    int error = 0;
    for (uint32_t i = 0; i < count && !r->failed && !error; i++) {
        struct store_key_value kv;
        uint8_t kind = byte_reader_u8(r);
        if (store_key_value_decode(r, &kv))
            error = take_event(feed, view, kind != STORE_PUT, &kv, err);
    }
    if (r->failed)
        return error_set(err, EBADMSG, "the store's events can't be understood");
    if (!error)
        feed->through = revision;
    return error;
}

static int catch_up(struct record_feed *feed, struct record_view *view, uint64_t revision,
                    struct error *err)
{
    uint64_t limit = clock_monotonic_ns() + CATCH_UP_MS * NSEC_PER_MSEC;
    while (feed->through < revision) {
        struct byte_reader payload;
        uint16_t type;
        uint64_t now = clock_monotonic_ns();
        int r =
            store_client_next(feed->client, now < limit ? limit - now : 0, &type, &payload, err);
        if (!r && type == PROTOCOL_EVENTS)
            r = take_frame(feed, view, &payload, err);
        if (r)
            return r;
    }
    view->revision = feed->through;
    return 0;
}

// ---- refreshing ----

static int read_anew(struct record_feed *feed, struct exchange *exchange, struct record_view *view,
                     struct error *err)
{
    struct error none = {0};
    record_feed_close(feed);
    feed->placed++;
    feed->rereads++;
    int r = exchange_read(exchange, view, err);
    if (r)
        return r;
    feed->through = view->revision;
    // Without one, everything is read again the next time.
    if (begin(feed, exchange, &none))
        record_feed_close(feed);
    return 0;
}

int record_feed_refresh(struct record_feed *feed, struct exchange *exchange,
                        struct record_view *view, struct error *err)
{
    uint64_t revision;
    *err = (struct error){0};
    if (!feed->client)
        return read_anew(feed, exchange, view, err);
    int r = exchange_revision(exchange, &revision, err);
    if (r)
        return r;
    if (catch_up(feed, view, revision, err) == 0)
        return 0;
    *err = (struct error){0};
    return read_anew(feed, exchange, view, err);
}
