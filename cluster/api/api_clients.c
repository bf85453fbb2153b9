// cluster.client_certificate, cluster.clients, cluster.client_revoke: who may use the cluster from
// elsewhere
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "cluster/api/api.h"
#include "cluster/member/certificates.h"
#include "cluster/member/member.h"
#include "cluster/store/store_admin.h"

enum { SECONDS_OF_A_YEAR = 365 * 24 * 3600 };

static int failed(struct api_call *call, enum store_status status)
{
    if (status == STORE_UNKNOWN && call->err.code)
        return -call->err.code;
    if (status == STORE_NO_CA)
        return error_set(&call->err, ENOTSUP,
                         "this cluster makes no certificates: it was founded with --tls-cert (make "
                         "one with that CA, for client authentication alone) or without TLS");
    return error_set(&call->err, EAGAIN, "store: %s", store_status_text(status));
}

// Opens the exchange's client, if it isn't yet.
static int open_store(struct api_call *call)
{
    struct record none;
    return exchange_get(&call->exchange, RECORD_MANAGER, "", &none, &call->err);
}

static int check_name(struct api_call *call, const char *name)
{
    if (!name)
        return -call->err.code;
    return name_is_valid(name)
               ? 0
               : error_set(&call->err, EINVAL,
                           "'%s' is not a name for a client ([a-z0-9][a-z0-9._-]{0,39})", name);
}

static int take_seconds(struct api_call *call, uint64_t *seconds)
{
    const json_t *ttl = json_object_get(call->params, "ttl_ns");
    json_int_t ns = json_integer_value(ttl);
    *seconds = SECONDS_OF_A_YEAR;
    if (!ttl)
        return 0;
    *seconds = (uint64_t)ns / NSEC_PER_SEC;
    return json_is_integer(ttl) && ns >= (json_int_t)NSEC_PER_SEC &&
                   *seconds <= MEMBER_CLIENT_SECONDS_MAX
               ? 0
               : error_set(&call->err, EINVAL,
                           "\"ttl_ns\" must be from a second to ten years, in nanoseconds");
}

// Where a client finds the cluster: every host that isn't dead.
static json_t *addresses_of(const struct record_view *view)
{
    json_t *list = json_array();
    for (size_t i = 0; i < view->host_count; i++) {
        const struct host_entry *host = &view->hosts[i];
        if (host->host.mod && !host->life.value.life.fenced)
            json_array_append_new(list, json_string(host->host.value.host.address));
    }
    return list;
}

static json_t *take_blob(struct byte_reader *answer)
{
    size_t length;
    const uint8_t *bytes = byte_reader_blob(answer, 2 * CERTIFICATE_TEXT_MAX, &length);
    return bytes ? json_stringn((const char *)bytes, length) : NULL;
}

static int ask_for_certificate(struct api_call *call, const char *name, uint64_t seconds,
                               const struct certificate_pair *request)
{
    struct byte_writer body;
    struct byte_reader answer;
    enum store_status status = STORE_BUSY;
    byte_writer_init(&body);
    byte_writer_string(&body, name);
    byte_writer_u8(&body, json_is_true(json_object_get(call->params, "read_only")));
    byte_writer_u64(&body, seconds);
    byte_writer_string(&body, request->certificate);
    if (!body.failed)
        status = store_client_request(call->exchange.client, REQUEST_CLIENT_SIGN, body.data,
                                      body.length, &answer, &call->err);
    byte_writer_free(&body);
    if (status != STORE_OK)
        return failed(call, status);
    byte_reader_u8(&answer);
    byte_reader_u64(&answer);
    json_t *own = take_blob(&answer), *ca = take_blob(&answer);
    if (own && ca)
        call->result = json_pack("{s:O, s:O, s:s, s:o}", "certificate", own, "ca", ca, "key",
                                 request->key, "addresses", addresses_of(&call->view));
    json_decref(own);
    json_decref(ca);
    return call->result ? 0
                        : error_set(&call->err, EBADMSG, "store: the answer can't be understood");
}

// The key is made here, and leaves this host by its local socket alone: into the caller's files.
int api_cluster_client_certificate(struct api_call *call)
{
    struct certificate_pair request;
    uint64_t seconds;
    const char *name = api_text(call, "name", true);
    int r = check_name(call, name);
    if (!r)
        r = take_seconds(call, &seconds);
    if (!r)
        r = api_read(call);
    if (!r)
        r = certificate_make_request(name, &request, &call->err);
    if (r)
        return r;
    r = ask_for_certificate(call, name, seconds, &request);
    certificate_pair_free(&request);
    return r;
}

int api_cluster_clients(struct api_call *call)
{
    call->result = api_store_json(call, REQUEST_CLIENTS);
    return call->result ? 0 : -call->err.code;
}

int api_cluster_client_revoke(struct api_call *call)
{
    struct byte_writer body;
    struct byte_reader answer;
    const char *name = api_text(call, "name", true);
    int r = check_name(call, name);
    if (!r)
        r = open_store(call);
    if (r)
        return r;
    byte_writer_init(&body);
    byte_writer_string(&body, name);
    enum store_status status = STORE_BUSY;
    if (!body.failed)
        status = store_client_request(call->exchange.client, REQUEST_CLIENT_REVOKE, body.data,
                                      body.length, &answer, &call->err);
    byte_writer_free(&body);
    if (status == STORE_MEMBER_NOT_FOUND) {
        call->code = "not-found";
        return error_set(&call->err, ENOENT,
                         "no client has a certificate under the name or id '%s' (`ferry cluster "
                         "clients`)",
                         name);
    }
    return status == STORE_OK ? 0 : failed(call, status);
}
