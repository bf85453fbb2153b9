#include "base/tls.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PEM_LIMIT = 1 << 20 }; // more than any chain of certificates has

struct tls_credentials {
    gnutls_certificate_credentials_t certificates;
    gnutls_priority_t priority;
};

// The whole file into fresh memory. 0 or a sentence.
static int read_source(const struct tls_source *source, const char *what, gnutls_datum_t *out,
                       struct error *err)
{
    int fd = source->fd >= 0 ? source->fd : open(source->name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "TLS: %s '%s'", what, source->name);
    lseek(fd, 0, SEEK_SET); // where it can be: a pipe is read from where it is
    uint8_t *bytes = malloc(PEM_LIMIT);
    size_t length = 0;
    ssize_t n = bytes ? 1 : -1;
    while (n > 0 && length < PEM_LIMIT) {
        n = read(fd, bytes + length, PEM_LIMIT - length);
        if (n > 0)
            length += (size_t)n;
    }
    int rc = 0;
    if (!bytes || n < 0)
        rc = error_set_errno(err, bytes ? errno : ENOMEM, "TLS: reading %s '%s'", what,
                             source->name);
    else if (length == PEM_LIMIT)
        rc = error_set(err, EINVAL, "TLS: %s '%s' is too large to be one", what, source->name);
    if (fd != source->fd)
        close(fd);
    if (rc < 0) {
        free(bytes);
        return rc;
    }
    *out = (gnutls_datum_t){bytes, (unsigned)length};
    return 0;
}

static void forget(gnutls_datum_t *datum)
{
    if (datum->data)
        explicit_bzero(datum->data, datum->size); // one of them is a key
    free(datum->data);
}

static int use_ca(struct tls_credentials *c, const struct tls_source *ca, struct error *err)
{
    gnutls_datum_t pem = {0};
    int rc = read_source(ca, "CA file", &pem, err);
    if (rc < 0)
        return rc;
    int code = gnutls_certificate_set_x509_trust_mem(c->certificates, &pem, GNUTLS_X509_FMT_PEM);
    forget(&pem);
    if (code > 0)
        return 0;
    return error_set(err, EINVAL, "TLS: CA file '%s': %s", ca->name,
                     code ? gnutls_strerror(code) : "no certificate in it");
}

static int use_key(struct tls_credentials *c, const struct tls_source *certificate,
                   const struct tls_source *key, struct error *err)
{
    gnutls_datum_t pem = {0}, key_pem = {0};
    int code = 0, rc = read_source(certificate, "certificate", &pem, err);
    if (rc == 0)
        rc = read_source(key, "key", &key_pem, err);
    if (rc == 0)
        code = gnutls_certificate_set_x509_key_mem(c->certificates, &pem, &key_pem,
                                                   GNUTLS_X509_FMT_PEM);
    forget(&pem);
    forget(&key_pem);
    return code < 0 ? error_set(err, EINVAL, "TLS: certificate '%s' with key '%s': %s",
                                certificate->name, key->name, gnutls_strerror(code))
                    : rc;
}

static int make_credentials(struct tls_credentials **out, struct error *err)
{
    int rc = gnutls_library_load(err);
    if (rc < 0)
        return rc;
    struct tls_credentials *c = calloc(1, sizeof(*c));
    if (!c || gnutls_certificate_allocate_credentials(&c->certificates) < 0) {
        free(c);
        return error_set(err, ENOMEM, "TLS: out of memory");
    }
    // 128 bits of strength, so that the usual keys do (P-256, RSA from 2048 bits on).
    if (gnutls_priority_init(&c->priority, "SECURE128:-VERS-ALL:+VERS-TLS1.3:%PROFILE_MEDIUM",
                             NULL) < 0) {
        tls_credentials_free(c);
        return error_set(err, ENOSYS, "TLS: this GnuTLS has no TLS 1.3");
    }
    *out = c;
    return 0;
}

int tls_credentials_load(struct tls_credentials **out, struct tls_source certificate,
                         struct tls_source key, struct tls_source ca, struct error *err)
{
    struct tls_credentials *c;
    int rc = make_credentials(&c, err);
    if (rc < 0)
        return rc;
    rc = use_ca(c, &ca, err);
    if (rc == 0)
        rc = use_key(c, &certificate, &key, err);
    if (rc < 0)
        tls_credentials_free(c);
    else
        *out = c;
    return rc;
}

int tls_credentials_none(struct tls_credentials **out, struct error *err)
{
    return make_credentials(out, err);
}

// What a certificate must be good for. One without such a list is good for everything.
static gnutls_typed_vdata_st of_host[] = {
    {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)GNUTLS_KP_TLS_WWW_SERVER}};
static gnutls_typed_vdata_st of_client[] = {
    {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT}};

static const char *certificate_fault(gnutls_session_t session)
{
    unsigned status = gnutls_session_get_verify_cert_status(session);
    if (status == (unsigned)-1) // one of our own functions looked at it
        gnutls_certificate_verify_peers(session, of_host, 1, &status);
    if (status & GNUTLS_CERT_UNEXPECTED_OWNER)
        return "it is for another host than --tls-name says";
    if (status & GNUTLS_CERT_SIGNER_NOT_FOUND)
        return "another CA has signed it than this side trusts";
    if (status & GNUTLS_CERT_EXPIRED)
        return "it has expired";
    if (status & GNUTLS_CERT_NOT_ACTIVATED)
        return "it isn't valid yet (is the clock right?)";
    if (status & GNUTLS_CERT_INSECURE_ALGORITHM)
        return "its key or signature is too weak";
    if (status &
        GNUTLS_CERT_PURPOSE_MISMATCH) // last: a session that admits clients has other faults
        return "it is a client's, and a host's is needed";
    return "it isn't valid";
}

void tls_describe_failure(gnutls_session_t session, int code, char text[TLS_FAILURE_SIZE])
{
    if (code == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
        snprintf(text, TLS_FAILURE_SIZE, "the other side's certificate is refused: %s",
                 certificate_fault(session));
    else if (code == GNUTLS_E_FATAL_ALERT_RECEIVED)
        snprintf(text, TLS_FAILURE_SIZE, "the other side refused: %s",
                 gnutls_alert_get_name(gnutls_alert_get(session)));
    else
        snprintf(text, TLS_FAILURE_SIZE, "%s", gnutls_strerror(code));
}

int tls_ca_fingerprint(struct tls_source ca, uint8_t fingerprint[TLS_FINGERPRINT_BYTES],
                       struct error *err)
{
    gnutls_datum_t pem = {0}, der = {0};
    size_t size = 0, digest = TLS_FINGERPRINT_BYTES;
    int rc = gnutls_library_load(err);
    if (rc == 0)
        rc = read_source(&ca, "CA file", &pem, err);
    if (rc < 0)
        return rc;
    // Never longer than its text.
    size = pem.size;
    der.data = malloc(size ? size : 1);
    int code = der.data ? gnutls_pem_base64_decode("CERTIFICATE", &pem, der.data, &size)
                        : GNUTLS_E_MEMORY_ERROR;
    der.size = (unsigned)size;
    if (code >= 0)
        code = gnutls_fingerprint(GNUTLS_DIG_SHA256, &der, fingerprint, &digest);
    free(der.data);
    forget(&pem);
    return code < 0
               ? error_set(err, EINVAL, "TLS: CA file '%s': %s", ca.name, gnutls_strerror(code))
               : 0;
}

void tls_credentials_free(struct tls_credentials *c)
{
    if (!c)
        return;
    if (c->priority)
        gnutls_priority_deinit(c->priority);
    gnutls_certificate_free_credentials(c->certificates);
    free(c);
}

int tls_session_open(gnutls_session_t *session, const struct tls_credentials *c, bool server,
                     unsigned flags, const char *peer_name)
{
    if (gnutls_init(session, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | flags) < 0)
        return -ENOMEM;
    if (gnutls_priority_set(*session, c->priority) < 0 ||
        gnutls_credentials_set(*session, GNUTLS_CRD_CERTIFICATE, c->certificates) < 0) {
        gnutls_deinit(*session);
        return -EINVAL;
    }
    if (server)
        gnutls_certificate_server_set_request(*session, GNUTLS_CERT_REQUIRE);
    // A name implies the purpose: certificates for clients alone carry none that would match.
    if (peer_name)
        gnutls_session_set_verify_cert(*session, peer_name, 0);
    else
        gnutls_session_set_verify_cert2(*session, of_host, 1, 0);
    return 0;
}

// ---- whose certificate it is ----

void tls_session_admit_clients(gnutls_session_t session)
{
    gnutls_session_set_verify_cert2(session, of_client, 1, 0);
}

static void take_name(gnutls_x509_crt_t certificate, const char *oid, char text[TLS_NAME_SIZE])
{
    size_t size = TLS_NAME_SIZE;
    if (gnutls_x509_crt_get_dn_by_oid(certificate, oid, 0, 0, text, &size) < 0)
        text[0] = 0;
    text[TLS_NAME_SIZE - 1] = 0;
}

// As GnuTLS judges by it: no list, or the purpose in it, or "any".
static bool may_serve(gnutls_x509_crt_t certificate)
{
    char oid[64];
    for (unsigned i = 0;; i++) {
        size_t size = sizeof(oid);
        int code = gnutls_x509_crt_get_key_purpose_oid(certificate, i, oid, &size, NULL);
        if (code == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
            return i == 0;
        if (code == GNUTLS_E_SHORT_MEMORY_BUFFER)
            continue;
        if (code < 0)
            return false;
        if (strcmp(oid, GNUTLS_KP_TLS_WWW_SERVER) == 0 || strcmp(oid, GNUTLS_KP_ANY) == 0)
            return true;
    }
}

static bool take_digest(gnutls_x509_crt_t certificate, char text[TLS_NAME_SIZE])
{
    uint8_t digest[TLS_FINGERPRINT_BYTES];
    size_t size = sizeof(digest);
    if (gnutls_x509_crt_get_fingerprint(certificate, GNUTLS_DIG_SHA256, digest, &size) < 0)
        return false;
    for (size_t i = 0; i < sizeof(digest); i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    return true;
}

static bool take_subject(const gnutls_datum_t *bytes, gnutls_x509_crt_fmt_t format,
                         struct tls_subject *subject)
{
    gnutls_x509_crt_t certificate;
    *subject = (struct tls_subject){.client = true};
    if (gnutls_x509_crt_init(&certificate) < 0)
        return false;
    bool good = gnutls_x509_crt_import(certificate, bytes, format) >= 0;
    if (good) {
        subject->client = !may_serve(certificate);
        take_name(certificate, GNUTLS_OID_X520_COMMON_NAME, subject->name);
        take_name(certificate, "2.5.4.5", subject->id); // serialNumber (RFC 4519)
        take_name(certificate, GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME, subject->unit);
        subject->begins = gnutls_x509_crt_get_activation_time(certificate);
        subject->ends = gnutls_x509_crt_get_expiration_time(certificate);
        good = take_digest(certificate, subject->digest);
    }
    gnutls_x509_crt_deinit(certificate);
    return good;
}

bool tls_session_subject(gnutls_session_t session, struct tls_subject *subject)
{
    unsigned count = 0;
    const gnutls_datum_t *list = gnutls_certificate_get_peers(session, &count);
    *subject = (struct tls_subject){.client = true};
    return list && count && take_subject(&list[0], GNUTLS_X509_FMT_DER, subject);
}

bool tls_subject_text_is_valid(const char *text)
{
    if (strncmp(text, "id:", 3) == 0)
        return text[3] && strlen(text + 3) < TLS_NAME_SIZE;
    return strncmp(text, "sha256:", 7) == 0 && strlen(text + 7) == 2 * TLS_FINGERPRINT_BYTES &&
           strspn(text + 7, "0123456789abcdef") == 2 * TLS_FINGERPRINT_BYTES;
}

bool tls_subject_is(const struct tls_subject *subject, const char *text)
{
    if (!tls_subject_text_is_valid(text))
        return false;
    return text[0] == 'i' ? strcmp(subject->id, text + 3) == 0
                          : strcmp(subject->digest, text + 7) == 0;
}

int tls_file_subject(struct tls_source certificate, struct tls_subject *subject, struct error *err)
{
    gnutls_datum_t pem = {0};
    int rc = gnutls_library_load(err);
    if (rc == 0)
        rc = read_source(&certificate, "certificate", &pem, err);
    if (rc < 0)
        return rc;
    bool good = take_subject(&pem, GNUTLS_X509_FMT_PEM, subject);
    forget(&pem);
    return good ? 0
                : error_set(err, EINVAL, "TLS: certificate '%s': it can't be read",
                            certificate.name);
}

// ---- which protocol is spoken inside ----

int tls_session_offer(gnutls_session_t session, const char *const *names, unsigned count)
{
    enum { MOST = 4 };
    gnutls_datum_t list[MOST];
    if (count > MOST)
        return -EINVAL;
    for (unsigned i = 0; i < count; i++)
        list[i] =
            (gnutls_datum_t){(unsigned char *)(uintptr_t)names[i], (unsigned)strlen(names[i])};
    return gnutls_alpn_set_protocols(session, list, count, 0) < 0 ? -ENOMEM : 0;
}

bool tls_session_speaks(gnutls_session_t session, const char *name)
{
    gnutls_datum_t selected = {0};
    return gnutls_alpn_get_selected_protocol(session, &selected) >= 0 &&
           selected.size == strlen(name) && memcmp(selected.data, name, selected.size) == 0;
}

// ---- before somebody has a certificate ----

static int verify_peer(gnutls_session_t session, gnutls_typed_vdata_st *purpose)
{
    unsigned status = 0;
    int code = gnutls_certificate_verify_peers(session, purpose, 1, &status);
    return code < 0 || status ? GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR : 0;
}

// The one that is pinned is made the CA of this session's credentials; then all goes as usual.
static int verify_pinned(gnutls_session_t session)
{
    const uint8_t *pinned = gnutls_session_get_ptr(session);
    gnutls_certificate_credentials_t certificates;
    unsigned count = 0;
    const gnutls_datum_t *list = gnutls_certificate_get_peers(session, &count);
    for (unsigned i = 0; list && i < count; i++) {
        uint8_t digest[TLS_FINGERPRINT_BYTES];
        size_t size = sizeof(digest);
        if (gnutls_fingerprint(GNUTLS_DIG_SHA256, &list[i], digest, &size) < 0 ||
            memcmp(digest, pinned, sizeof(digest)) != 0)
            continue;
        if (gnutls_credentials_get(session, GNUTLS_CRD_CERTIFICATE, (void **)&certificates) < 0 ||
            gnutls_certificate_set_x509_trust_mem(certificates, &list[i], GNUTLS_X509_FMT_DER) < 0)
            break;
        return verify_peer(session, of_host);
    }
    return GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR;
}

void tls_session_pin(gnutls_session_t session, const uint8_t fingerprint[TLS_FINGERPRINT_BYTES])
{
    gnutls_session_set_ptr(session, (void *)(uintptr_t)fingerprint);
    gnutls_session_set_verify_function(session, verify_pinned);
}

bool tls_session_is_stranger(gnutls_session_t session)
{
    unsigned count = 0;
    return !gnutls_certificate_get_peers(session, &count) || count == 0;
}

static int verify_unless_stranger(gnutls_session_t session)
{
    return tls_session_is_stranger(session) ? 0 : verify_peer(session, of_client);
}

void tls_session_admit_strangers(gnutls_session_t session)
{
    gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUEST);
    gnutls_session_set_verify_function(session, verify_unless_stranger);
}
