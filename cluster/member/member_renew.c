// This host's own certificate is made again before it ends, for the same key.
//
// Whoever has the CA's key makes its own; others ask a member that has it, over the connection
// between them, whose certificates say which members they are. Nothing of it is in the store.
//
// Connections that are there stay as they are: a certificate counts when one begins. Those that
// begin later use the new one, in ferryd's other threads too, which read the file again when it is
// another.
//
// Threads: the loop's; the file is written by one of the pool's.
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/member/certificates.h"
#include "cluster/member/member_internal.h"

enum { LOOK_SECONDS = 1, AGAIN_SECONDS = 3 };

struct retired_credentials {
    LIST_ENTRY(retired_credentials) link;
    struct tls_credentials *tls;
};

// ---- those in use, and those before ----

int member_tls_load(const struct member_options *o, struct tls_credentials **tls,
                    struct retired_list *retired, struct error *err)
{
    struct tls_credentials *new = NULL;
    struct retired_credentials *old = malloc(sizeof(*old));
    int r = old ? tls_credentials_load(&new, tls_source(o->tls_certificate), tls_source(o->tls_key),
                                       tls_source(o->tls_ca), err)
                : error_set(err, ENOMEM, "out of memory");
    if (r) {
        free(old);
        return r;
    }
    old->tls = *tls;
    LIST_INSERT_HEAD(retired, old, link);
    *tls = new;
    return 0;
}

void member_tls_free_retired(struct retired_list *retired)
{
    struct retired_credentials *old;
    while ((old = LIST_FIRST(retired))) {
        LIST_REMOVE(old, link);
        tls_credentials_free(old->tls);
        free(old);
    }
}

// ---- when ----

static bool is_due(struct member *member)
{
    struct error err = {0};
    if (!member->renewal.known) {
        if (tls_file_subject(tls_source(member->options.tls_certificate), &member->renewal.subject,
                             &err)) {
            log_warning("renewing this host's certificate: %s", err.message);
            return false;
        }
        member->renewal.known = true;
    }
    const struct tls_subject *own = &member->renewal.subject;
    // Those of older versions carry no id: they are renewed at once.
    return !own->id[0] || certificate_is_due(own->begins, own->ends);
}

// ---- taking the new one ----

static void work(uv_work_t *request)
{
    struct member *member = request->data;
    struct error err = {0};
    member->renewal.failed =
        member_write_tls_file(member->options.directory, "host.pem", member->renewal.writing, &err);
    if (member->renewal.failed)
        log_warning("renewing this host's certificate: %s", err.message);
}

static void worked(uv_work_t *request, int status)
{
    struct member *member = request->data;
    struct error err = {0};
    member->renewal.working = false;
    free(member->renewal.writing);
    member->renewal.writing = NULL;
    if (status || member->renewal.failed || member->stopping || member->ended)
        return;
    member->renewal.known = false;
    if (member_tls_load(&member->options, &member->tls, &member->renewal.retired, &err))
        log_warning("renewing this host's certificate: %s", err.message);
    else
        log_info("this host's certificate is a new one");
}

static void take(struct member *member, const char *certificate)
{
    const struct member_options *o = &member->options;
    if (member->renewal.working || !certificate)
        return;
    if (!certificate_is_for(o->tls_ca, certificate, o->tls_key)) {
        log_warning("renewing this host's certificate: what came isn't one of the CA for its key");
        return;
    }
    member->renewal.writing = strdup(certificate);
    member->renewal.work.data = member;
    member->renewal.working = member->renewal.writing &&
                              uv_queue_work(member->loop, &member->renewal.work, work, worked) == 0;
    if (!member->renewal.working) {
        free(member->renewal.writing);
        member->renewal.writing = NULL;
    }
}

// ---- making one ----

// For whom the records say is that member.
static char *make(struct member *member, uint64_t id, const char *request)
{
    struct member_record record;
    char *certificate = NULL;
    if (member_is_gone(member, id) || !member_find_record(member, id, &record) ||
        member_sign_host(member, &record, request, &certificate) != STORE_OK)
        return NULL;
    return certificate;
}

static void send_text(struct peer *peer, uint16_t type, const char *text)
{
    struct byte_writer w;
    byte_writer_init(&w);
    byte_writer_string(&w, text);
    if (!w.failed)
        connection_send(peer->connection, type, w.data, w.length);
    byte_writer_free(&w);
}

static void ask(struct member *member)
{
    struct error err = {0};
    char *request = NULL;
    if (certificate_request_for(member->options.tls_key, member->self.name, &request, &err)) {
        log_warning("renewing this host's certificate: %s", err.message);
        return;
    }
    if (member_ca_held(member)) {
        char *certificate = make(member, member->id, request);
        take(member, certificate);
        free(certificate);
    } else {
        struct peer *peer = member_peer_with_ca(member);
        if (peer)
            send_text(peer, PROTOCOL_CERTIFICATE_WANTED, request);
    }
    free(request);
}

bool member_renew_take_frame(struct member *member, struct peer *peer, uint16_t type,
                             const uint8_t *payload, size_t length)
{
    struct byte_reader r;
    size_t size;
    byte_reader_init(&r, payload, length);
    const uint8_t *bytes = byte_reader_blob(&r, 2 * CERTIFICATE_TEXT_MAX, &size);
    if (!bytes)
        return false;
    if (!member->options.own_tls || !peer)
        return true;
    char *text = strndup((const char *)bytes, size);
    if (text && type == PROTOCOL_CERTIFICATE) {
        take(member, text);
    } else if (text && peer->up && peer->takes_ca && member->ticks >= peer->renewal_again) {
        // Signing takes the loop a millisecond: not as often as somebody likes.
        peer->renewal_again = member->ticks + member_ticks_of(member, 1);
        char *certificate = make(member, peer->id, text);
        if (certificate)
            send_text(peer, PROTOCOL_CERTIFICATE, certificate);
        free(certificate);
    }
    free(text);
    return true;
}

void member_renew_tick(struct member *member)
{
    if (!member->options.own_tls || member->renewal.working ||
        member->ticks % member_ticks_of(member, LOOK_SECONDS) ||
        member->ticks < member->renewal.again || !is_due(member))
        return;
    member->renewal.again = member->ticks + member_ticks_of(member, AGAIN_SECONDS);
    ask(member);
}

void member_renew_free(struct member *member)
{
    member_tls_free_retired(&member->renewal.retired);
    free(member->renewal.writing);
}
