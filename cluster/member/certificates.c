#include "cluster/member/certificates.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SERIAL_BYTES = 16, KEY_ID_BYTES = 64, SUBJECT_ID_BYTES = 20 };

static int failed(struct error *err, int code, const char *what)
{
    return error_set(err, code == GNUTLS_E_MEMORY_ERROR ? ENOMEM : EIO, "%s: %s", what,
                     gnutls_strerror(code));
}

// Takes GnuTLS's memory over.
static char *text_of(gnutls_datum_t *datum)
{
    char *text = datum->data ? strndup((const char *)datum->data, datum->size) : NULL;
    if (datum->data)
        explicit_bzero(datum->data, datum->size); // it may be a key
    gnutls_free(datum->data);
    return text;
}

static int make_key(gnutls_x509_privkey_t *key, char **text)
{
    gnutls_datum_t pem = {0};
    int code = gnutls_x509_privkey_init(key);
    if (code < 0)
        return code;
    code = gnutls_x509_privkey_generate(*key, GNUTLS_PK_ECDSA,
                                        GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    if (code >= 0)
        code = gnutls_x509_privkey_export2_pkcs8(*key, GNUTLS_X509_FMT_PEM, NULL, GNUTLS_PKCS_PLAIN,
                                                 &pem);
    if (code >= 0 && !(*text = text_of(&pem)))
        code = GNUTLS_E_MEMORY_ERROR;
    if (code < 0)
        gnutls_x509_privkey_deinit(*key);
    return code;
}

// What every certificate of ours has: a serial number, and its time. It begins a little earlier, as
// the clocks of hosts differ.
static int set_common(gnutls_x509_crt_t certificate, uint64_t seconds)
{
    uint8_t serial[SERIAL_BYTES], id[KEY_ID_BYTES];
    size_t size = sizeof(id);
    time_t now = time(NULL);
    int code = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof(serial));
    serial[0] = (serial[0] & 0x7f) | 1; // positive, and of that length
    if (code >= 0)
        code = gnutls_x509_crt_set_serial(certificate, serial, sizeof(serial));
    if (code >= 0)
        code = gnutls_x509_crt_set_version(certificate, 3);
    if (code >= 0)
        code = gnutls_x509_crt_set_activation_time(certificate, now - CERTIFICATE_CLOCKS_OFF);
    if (code >= 0)
        code = gnutls_x509_crt_set_expiration_time(certificate, now + (time_t)seconds);
    if (code >= 0)
        code = gnutls_x509_crt_get_key_id(certificate, 0, id, &size);
    // Any number that differs between keys will do.
    if (code >= 0)
        code = gnutls_x509_crt_set_subject_key_id(certificate, id, SUBJECT_ID_BYTES);
    return code;
}

static int set_name(gnutls_x509_crt_t certificate, const char *name)
{
    return gnutls_x509_crt_set_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                         (unsigned)strlen(name));
}

static int sign_and_export(gnutls_x509_crt_t certificate, gnutls_x509_crt_t by,
                           gnutls_x509_privkey_t key, char **text)
{
    gnutls_datum_t pem = {0};
    int code = gnutls_x509_crt_sign2(certificate, by, key, GNUTLS_DIG_SHA256, 0);
    if (code >= 0)
        code = gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, &pem);
    if (code >= 0 && !(*text = text_of(&pem)))
        code = GNUTLS_E_MEMORY_ERROR;
    return code;
}

int certificate_make_ca(const char *cluster, struct certificate_pair *ca, struct error *err)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t certificate = NULL;
    char name[64];
    *ca = (struct certificate_pair){0};
    int code = make_key(&key, &ca->key);
    if (code < 0)
        return failed(err, code, "making the CA's key");
    snprintf(name, sizeof(name), "ferry cluster %.40s", cluster);
    code = gnutls_x509_crt_init(&certificate);
    if (code >= 0)
        code = gnutls_x509_crt_set_key(certificate, key);
    if (code >= 0)
        code = set_name(certificate, name);
    if (code >= 0)
        code = set_common(certificate, (uint64_t)CERTIFICATE_CA_YEARS * 365 * 24 * 3600);
    if (code >= 0)
        code = gnutls_x509_crt_set_basic_constraints(certificate, 1, 0);
    if (code >= 0)
        code = gnutls_x509_crt_set_key_usage(certificate,
                                             GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
    if (code >= 0)
        code = sign_and_export(certificate, certificate, key, &ca->certificate);
    if (certificate)
        gnutls_x509_crt_deinit(certificate);
    gnutls_x509_privkey_deinit(key);
    if (code >= 0)
        return 0;
    certificate_pair_free(ca);
    return failed(err, code, "making the CA");
}

static int make_request(gnutls_x509_privkey_t key, const char *name, char **text)
{
    gnutls_x509_crq_t crq = NULL;
    gnutls_datum_t pem = {0};
    int code = gnutls_x509_crq_init(&crq);
    if (code >= 0)
        code = gnutls_x509_crq_set_key(crq, key);
    if (code >= 0)
        code = gnutls_x509_crq_set_version(crq, 1);
    if (code >= 0)
        code = gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                             (unsigned)strlen(name));
    if (code >= 0)
        code = gnutls_x509_crq_sign2(crq, key, GNUTLS_DIG_SHA256, 0);
    if (code >= 0)
        code = gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, &pem);
    if (code >= 0 && !(*text = text_of(&pem)))
        code = GNUTLS_E_MEMORY_ERROR;
    if (crq)
        gnutls_x509_crq_deinit(crq);
    return code;
}

int certificate_make_request(const char *name, struct certificate_pair *request, struct error *err)
{
    gnutls_x509_privkey_t key;
    *request = (struct certificate_pair){0};
    int code = make_key(&key, &request->key);
    if (code < 0)
        return failed(err, code, "making a key");
    code = make_request(key, name, &request->certificate);
    gnutls_x509_privkey_deinit(key);
    if (code >= 0)
        return 0;
    certificate_pair_free(request);
    return failed(err, code, "making the request for a certificate");
}

int certificate_request_for(const char *key_path, const char *name, char **request,
                            struct error *err)
{
    gnutls_datum_t pem = {0};
    gnutls_x509_privkey_t key = NULL;
    int code = gnutls_load_file(key_path, &pem);
    if (code < 0)
        return error_set(err, EIO, "key '%s' can't be read: %s", key_path, gnutls_strerror(code));
    code = gnutls_x509_privkey_init(&key);
    if (code >= 0)
        code = gnutls_x509_privkey_import(key, &pem, GNUTLS_X509_FMT_PEM);
    if (code >= 0)
        code = make_request(key, name, request);
    if (key)
        gnutls_x509_privkey_deinit(key);
    explicit_bzero(pem.data, pem.size);
    gnutls_free(pem.data);
    return code < 0 ? failed(err, code, "making the request for a certificate") : 0;
}

static gnutls_datum_t datum_of(const char *text)
{
    return (gnutls_datum_t){(unsigned char *)(uintptr_t)text, (unsigned)strlen(text)};
}

static int import_ca(const struct certificate_pair *ca, gnutls_x509_crt_t *certificate,
                     gnutls_x509_privkey_t *key)
{
    gnutls_datum_t pem = datum_of(ca->certificate), key_pem = datum_of(ca->key);
    int code = gnutls_x509_crt_init(certificate);
    if (code >= 0)
        code = gnutls_x509_privkey_init(key);
    if (code >= 0)
        code = gnutls_x509_crt_import(*certificate, &pem, GNUTLS_X509_FMT_PEM);
    if (code >= 0)
        code = gnutls_x509_privkey_import(*key, &key_pem, GNUTLS_X509_FMT_PEM);
    return code;
}

// Who asks has to hold the key that it asks for.
static int import_request(const char *request, gnutls_x509_crq_t *crq)
{
    gnutls_datum_t pem = datum_of(request);
    int code = gnutls_x509_crq_init(crq);
    if (code >= 0)
        code = gnutls_x509_crq_import(*crq, &pem, GNUTLS_X509_FMT_PEM);
    if (code >= 0)
        code = gnutls_x509_crq_verify(*crq, 0);
    return code;
}

// Of the request it takes the key alone.
static int take_key(gnutls_x509_crt_t certificate, gnutls_x509_crq_t crq)
{
    gnutls_pubkey_t key;
    int code = gnutls_pubkey_init(&key);
    if (code < 0)
        return code;
    code = gnutls_pubkey_import_x509_crq(key, crq, 0);
    if (code >= 0)
        code = gnutls_x509_crt_set_pubkey(certificate, key);
    gnutls_pubkey_deinit(key);
    return code;
}

static int set_text(gnutls_x509_crt_t certificate, const char *oid, const char *text)
{
    return text ? gnutls_x509_crt_set_dn_by_oid(certificate, oid, 0, text, (unsigned)strlen(text))
                : 0;
}

static int fill(gnutls_x509_crt_t certificate, gnutls_x509_crq_t crq,
                const struct certificate_subject *subject)
{
    int code = take_key(certificate, crq);
    if (code >= 0)
        code = set_name(certificate, subject->name);
    if (code >= 0)
        code = set_text(certificate, "2.5.4.5", subject->id); // serialNumber (RFC 4519)
    if (code >= 0)
        code = set_text(certificate, GNUTLS_OID_X520_ORGANIZATIONAL_UNIT_NAME, subject->unit);
    if (code >= 0)
        code = set_common(certificate, subject->seconds);
    if (code >= 0)
        code = gnutls_x509_crt_set_basic_constraints(certificate, 0, -1);
    if (code >= 0)
        code = gnutls_x509_crt_set_key_usage(certificate, GNUTLS_KEY_DIGITAL_SIGNATURE);
    if (code >= 0 && !subject->client)
        code = gnutls_x509_crt_set_key_purpose_oid(certificate, GNUTLS_KP_TLS_WWW_SERVER, 0);
    if (code >= 0)
        code = gnutls_x509_crt_set_key_purpose_oid(certificate, GNUTLS_KP_TLS_WWW_CLIENT, 0);
    // No name to be found under for who may not be dialled.
    if (code >= 0 && !subject->client)
        code =
            gnutls_x509_crt_set_subject_alt_name(certificate, GNUTLS_SAN_DNSNAME, subject->name,
                                                 (unsigned)strlen(subject->name), GNUTLS_FSAN_SET);
    return code;
}

int certificate_sign(const struct certificate_pair *ca, const char *request,
                     const struct certificate_subject *subject, char **out, struct error *err)
{
    gnutls_x509_crt_t ca_certificate = NULL, certificate = NULL;
    gnutls_x509_privkey_t ca_key = NULL;
    gnutls_x509_crq_t crq = NULL;
    char *own = NULL;
    bool bad_request = false;
    int code = import_ca(ca, &ca_certificate, &ca_key);
    if (code >= 0) {
        code = import_request(request, &crq);
        bad_request = code < 0;
    }
    if (code >= 0)
        code = gnutls_x509_crt_init(&certificate);
    if (code >= 0)
        code = fill(certificate, crq, subject);
    if (code >= 0)
        code = sign_and_export(certificate, ca_certificate, ca_key, &own);
    if (code >= 0 && asprintf(out, "%s%s", own, ca->certificate) < 0)
        code = GNUTLS_E_MEMORY_ERROR;
    free(own);
    if (certificate)
        gnutls_x509_crt_deinit(certificate);
    if (crq)
        gnutls_x509_crq_deinit(crq);
    if (ca_key)
        gnutls_x509_privkey_deinit(ca_key);
    if (ca_certificate)
        gnutls_x509_crt_deinit(ca_certificate);
    if (bad_request)
        return error_set(err, EBADMSG, "not a request for a certificate: %s",
                         gnutls_strerror(code));
    return code < 0 ? failed(err, code, "signing a certificate") : 0;
}

static char *load_text(const char *path)
{
    gnutls_datum_t pem = {0};
    return gnutls_load_file(path, &pem) < 0 ? NULL : text_of(&pem);
}

static bool belong_together(gnutls_x509_crt_t certificate, gnutls_x509_privkey_t key)
{
    uint8_t ids[2][KEY_ID_BYTES];
    size_t sizes[2] = {KEY_ID_BYTES, KEY_ID_BYTES};
    return gnutls_x509_crt_get_key_id(certificate, 0, ids[0], &sizes[0]) >= 0 &&
           gnutls_x509_privkey_get_key_id(key, 0, ids[1], &sizes[1]) >= 0 && sizes[0] == sizes[1] &&
           memcmp(ids[0], ids[1], sizes[0]) == 0;
}

bool certificate_key_is_of(const char *certificate_path, const char *key)
{
    gnutls_x509_crt_t certificate = NULL;
    gnutls_x509_privkey_t private = NULL;
    struct certificate_pair pair = {.certificate = load_text(certificate_path),
                                    .key = (char *)(uintptr_t)key};
    bool good = pair.certificate && import_ca(&pair, &certificate, &private) >= 0 &&
                belong_together(certificate, private);
    if (certificate)
        gnutls_x509_crt_deinit(certificate);
    if (private)
        gnutls_x509_privkey_deinit(private);
    free(pair.certificate);
    return good;
}

bool certificate_is_due(int64_t begins, int64_t ends)
{
    int64_t made = begins + CERTIFICATE_CLOCKS_OFF;
    return (int64_t)time(NULL) >= ends - (ends - made) / 3;
}

bool certificate_is_for(const char *ca_path, const char *certificate, const char *key_path)
{
    gnutls_x509_crt_t own = NULL, ca = NULL;
    gnutls_x509_privkey_t private = NULL;
    unsigned fault = 1;
    struct certificate_pair pair = {.certificate = (char *)(uintptr_t)certificate,
                                    .key = load_text(key_path)};
    char *ca_text = load_text(ca_path);
    gnutls_datum_t ca_pem = datum_of(ca_text ? ca_text : "");
    bool good = pair.key && ca_text && import_ca(&pair, &own, &private) >= 0 &&
                belong_together(own, private) && gnutls_x509_crt_init(&ca) >= 0 &&
                gnutls_x509_crt_import(ca, &ca_pem, GNUTLS_X509_FMT_PEM) >= 0 &&
                gnutls_x509_crt_verify(own, &ca, 1, 0, &fault) >= 0 && !fault;
    if (own)
        gnutls_x509_crt_deinit(own);
    if (ca)
        gnutls_x509_crt_deinit(ca);
    if (private)
        gnutls_x509_privkey_deinit(private);
    if (pair.key)
        explicit_bzero(pair.key, strlen(pair.key));
    free(pair.key);
    free(ca_text);
    return good;
}

void certificate_pair_free(struct certificate_pair *pair)
{
    free(pair->certificate);
    if (pair->key)
        explicit_bzero(pair->key, strlen(pair->key));
    free(pair->key);
    *pair = (struct certificate_pair){0};
}
