// TLS as ferry has it everywhere: version 1.3, certificates on both sides, each signed by the CA
// that the other trusts. What is sent when is the caller's: this makes sessions, it moves no bytes.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/gnutls_library.h"

struct tls_credentials; // a certificate with its key, and whose certificates are believed

// Where the three are read from. `name` is for messages (a path); the bytes come from `fd` where
// that is >= 0 (read from its start, it stays the caller's), from the file of that name otherwise.
struct tls_source {
    const char *name;
    int fd;
};
static inline struct tls_source tls_source(const char *path)
{
    return (struct tls_source){.name = path, .fd = -1};
}

// All are PEM. The certificate may be followed by its chain; the key must not be encrypted. 0, or a
// sentence that names the file; -ENOSYS when the host has no GnuTLS.
int tls_credentials_load(struct tls_credentials **out, struct tls_source certificate,
                         struct tls_source key, struct tls_source ca, struct error *err);
// Why a handshake or a record failed, in words. `code` is GnuTLS's.
enum { TLS_FAILURE_SIZE = 160 };
void tls_describe_failure(gnutls_session_t session, int code, char text[TLS_FAILURE_SIZE]);
// The SHA-256 of the first certificate in a CA file (of its DER), for those who are to name a CA.
enum { TLS_FINGERPRINT_BYTES = 32 };
int tls_ca_fingerprint(struct tls_source ca, uint8_t fingerprint[TLS_FINGERPRINT_BYTES],
                       struct error *err);
// NULL is allowed. No session of them may be open.
void tls_credentials_free(struct tls_credentials *credentials);

// A session that is ready for a transport and a handshake; gnutls_deinit() ends it. `flags` are
// GnuTLS's, beyond server or client. A peer without a certificate of the CA fails the handshake,
// and so does one whose certificate is for clients alone (its extended key usage names client
// authentication and not server authentication): that can't stand for a host. Where `peer_name`
// isn't NULL (it must outlive the session) the certificate must also be for that DNS name or
// address. 0 or -errno.
int tls_session_open(gnutls_session_t *session, const struct tls_credentials *credentials,
                     bool server, unsigned flags, const char *peer_name);

// ---- whose certificate it is ----

// For a server's session: certificates that are for clients alone are let in too.
void tls_session_admit_clients(gnutls_session_t session);

enum { TLS_NAME_SIZE = 65 };
// What a certificate says of who has it.
struct tls_subject {
    bool client;              // good for clients alone
    char name[TLS_NAME_SIZE]; // its common name
    char id[TLS_NAME_SIZE]; // the serial number in its subject (not its own); "" where it has none
    char unit[TLS_NAME_SIZE];   // the organizational unit; "" where it has none
    int64_t begins, ends;       // seconds since 1970
    char digest[TLS_NAME_SIZE]; // SHA-256 of all of it, 64 hexadecimal digits
};
// After the handshake: the other side's. False when it showed none.
bool tls_session_subject(gnutls_session_t session, struct tls_subject *subject);
// One certificate, or those of one host, in a text: "sha256:" and its digest, or "id:" and its id.
bool tls_subject_is(const struct tls_subject *subject, const char *text);
bool tls_subject_text_is_valid(const char *text);
// That of a file's first certificate. 0 or a sentence.
int tls_file_subject(struct tls_source certificate, struct tls_subject *subject, struct error *err);

// ---- which protocol is spoken inside ----

// Before the handshake: the names, in the order of preference. A client's are offers; a server
// takes one of its own, or none when the client offered none of them. 0 or -errno.
int tls_session_offer(gnutls_session_t session, const char *const *names, unsigned count);
// After it: whether it is this one.
bool tls_session_speaks(gnutls_session_t session, const char *name);

// ---- before somebody has a certificate ----

// For whoever has none yet: no certificate, and no CA but the one that a session is pinned to.
int tls_credentials_none(struct tls_credentials **out, struct error *err);
// For a client's session of those: the other side must show a CA's certificate with this SHA-256,
// and its own must be signed by it. `fingerprint` outlives the session.
void tls_session_pin(gnutls_session_t session, const uint8_t fingerprint[TLS_FINGERPRINT_BYTES]);
// For a server's session: clients without a certificate are let in too, and those with one for
// clients alone; one that shows another CA's still isn't.
void tls_session_admit_strangers(gnutls_session_t session);
// After the handshake: whether the other side showed no certificate.
bool tls_session_is_stranger(gnutls_session_t session);
