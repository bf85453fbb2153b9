#include "cluster/member/client_host_look.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "cluster/member/certificates.h"
#include "cluster/member/member_internal.h"

enum { LIST_MAX = 1 << 20 };

#define TIMEOUT_NS     (2 * NSEC_PER_SEC)
#define RENEW_AGAIN_NS (3 * NSEC_PER_SEC)

void client_host_lists_free(struct client_host_lists *lists)
{
    free(lists->gone.ids);
    free(lists->revoked.ids);
    free(lists->refused);
    *lists = (struct client_host_lists){.sum = 0};
}

void client_host_look_free(struct client_host_look *look)
{
    store_client_destroy(look->client);
    look->client = NULL;
    client_host_lists_free(&look->lists);
}

static int open_client(struct client_host_look *look)
{
    const struct member_options *o = look->options;
    char list[sizeof(look->addresses)];
    size_t length = 0;
    for (unsigned i = 0; i < look->file.count && i < 16; i++) {
        const char *address = look->file.members[i];
        if (length + strlen(address) + 2 < sizeof(list))
            length += (size_t)snprintf(list + length, sizeof(list) - length, "%s%s", i ? "," : "",
                                       address);
    }
    if (look->client && strcmp(list, look->addresses) == 0)
        return 0;
    store_client_destroy(look->client);
    look->client = NULL;
    memcpy(look->addresses, list, sizeof(list));
    int r = store_client_create(&look->client, list, &look->err);
    if (!r && o->tls_ca)
        r = store_client_set_tls(look->client, o->tls_certificate, o->tls_key, o->tls_ca,
                                 &look->err);
    if (!r && o->tls_name)
        r = store_client_set_tls_name(look->client, o->tls_name, &look->err);
    if (r) {
        store_client_destroy(look->client);
        look->client = NULL;
        return r;
    }
    store_client_set_timeout(look->client, TIMEOUT_NS);
    return 0;
}

// ---- the lists ----

static bool take_ids(struct byte_reader *r, struct id_list *list)
{
    uint32_t count = byte_reader_u32(r);
    if (r->failed || count > LIST_MAX || count > byte_reader_left(r) / sizeof(uint64_t))
        return false;
    list->ids = calloc(count + 1, sizeof(uint64_t));
    for (uint32_t i = 0; list->ids && i < count; i++)
        list->ids[list->count++] = byte_reader_u64(r);
    return list->ids != NULL;
}

static bool take_digests(struct byte_reader *r, struct client_host_lists *lists)
{
    uint32_t count = byte_reader_u32(r);
    if (r->failed || count > LIST_MAX || count > byte_reader_left(r) / sizeof(uint32_t))
        return false;
    lists->refused = calloc(count + 1, sizeof(*lists->refused));
    for (; lists->refused && lists->refused_count < count; lists->refused_count++)
        if (!byte_reader_string(r, lists->refused[lists->refused_count], TLS_NAME_SIZE))
            return false;
    return lists->refused != NULL;
}

static bool take_answer(struct client_host_look *look, struct byte_reader *r)
{
    uint8_t cluster[sizeof(look->file.cluster)];
    byte_reader_u8(r);
    byte_reader_u64(r);
    byte_reader_bytes(r, cluster, sizeof(cluster));
    uint32_t sum = byte_reader_u32(r);
    if (r->failed)
        return false;
    look->other_cluster = memcmp(cluster, look->file.cluster, sizeof(cluster)) != 0;
    if (look->other_cluster || !byte_reader_left(r))
        return true; // as it was
    struct client_host_file file = {.id = look->file.id};
    memcpy(file.cluster, cluster, sizeof(cluster));
    unsigned count = byte_reader_u16(r);
    for (unsigned i = 0; i < count; i++) {
        char address[MEMBER_ADDRESS_SIZE];
        if (!byte_reader_string(r, address, sizeof(address)))
            return false;
        client_host_file_add(&file, address);
    }
    if (!file.count || !take_ids(r, &look->lists.gone) || !take_ids(r, &look->lists.revoked) ||
        !take_digests(r, &look->lists))
        return false;
    look->lists.sum = sum;
    look->has_lists = true;
    if (memcmp(&file, &look->file, sizeof(file)) != 0 &&
        client_host_file_save(&file, look->options->directory, &look->err))
        log_warning("the members' addresses: %s", look->err.message);
    look->file = file;
    return true;
}

static void ask(struct client_host_look *look)
{
    struct byte_writer body;
    struct byte_reader answer;
    byte_writer_init(&body);
    byte_writer_u64(&body, look->file.id);
    byte_writer_u32(&body, look->known);
    look->status = STORE_BUSY;
    if (!body.failed)
        look->status = store_client_request(look->client, REQUEST_ACCESS, body.data, body.length,
                                            &answer, &look->err);
    byte_writer_free(&body);
    if (look->status == STORE_OK && !take_answer(look, &answer)) {
        client_host_lists_free(&look->lists);
        look->has_lists = false;
        error_set(&look->err, EBADMSG, "the answer can't be understood");
        look->status = STORE_UNKNOWN;
    }
    // Another one the next time: this one may know no leader for long.
    if (look->status != STORE_OK)
        store_client_leave(look->client);
}

// ---- the certificate ----

static bool is_due(const struct member_options *o)
{
    struct tls_subject own;
    struct error err;
    return o->own_tls && !tls_file_subject(tls_source(o->tls_certificate), &own, &err) &&
           certificate_is_due(own.begins, own.ends);
}

static int request_certificate(struct client_host_look *look, char **certificate, struct error *err)
{
    const struct member_options *o = look->options;
    struct byte_writer body;
    struct byte_reader answer;
    char *csr = NULL;
    size_t length;
    enum store_status status = STORE_BUSY;
    int r = certificate_request_for(o->tls_key, o->name, &csr, err);
    if (r)
        return r;
    byte_writer_init(&body);
    byte_writer_string(&body, csr);
    free(csr);
    if (!body.failed)
        status = store_client_request(look->client, REQUEST_HOST_RENEW, body.data, body.length,
                                      &answer, err);
    byte_writer_free(&body);
    if (status != STORE_OK)
        return error_set(err, EAGAIN, "%s", store_status_text(status));
    byte_reader_u8(&answer);
    byte_reader_u64(&answer);
    const uint8_t *bytes = byte_reader_blob(&answer, 2 * CERTIFICATE_TEXT_MAX, &length);
    *certificate = bytes ? strndup((const char *)bytes, length) : NULL;
    if (*certificate && certificate_is_for(o->tls_ca, *certificate, o->tls_key))
        return 0;
    free(*certificate);
    *certificate = NULL;
    return error_set(err, EBADMSG, "what came isn't one of the CA for its key");
}

static void renew(struct client_host_look *look)
{
    uint64_t now = clock_monotonic_ns();
    struct error err = {0};
    char *certificate = NULL;
    if (now < look->renew_again || !is_due(look->options))
        return;
    look->renew_again = now + RENEW_AGAIN_NS;
    int r = request_certificate(look, &certificate, &err);
    if (!r)
        r = member_write_tls_file(look->options->directory, "host.pem", certificate, &err);
    free(certificate);
    if (r) {
        log_warning("renewing this host's certificate: %s", err.message);
        return;
    }
    look->renewed = true;
    store_client_destroy(look->client); // it has the old one
    look->client = NULL;
}

void client_host_look(struct client_host_look *look)
{
    look->err = (struct error){0};
    look->status = STORE_UNKNOWN;
    look->other_cluster = look->has_lists = look->renewed = false;
    client_host_lists_free(&look->lists);
    if (open_client(look))
        return;
    ask(look);
    if (look->status == STORE_OK && !look->other_cluster)
        renew(look);
}
