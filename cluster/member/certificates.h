// The certificates that a cluster makes for itself: its CA, keys and requests of hosts, and what
// the CA says to a request. All texts are PEM in fresh memory; free() them.
//
// Keys are P-256. A host's certificate is followed by the CA's: whoever joins by a token knows the
// CA by its fingerprint alone, and sees it in the handshake.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum {
    CERTIFICATE_CA_YEARS = 10,
    CERTIFICATE_TEXT_MAX = 16384,
    CERTIFICATE_CLOCKS_OFF = 3600, // seconds that they begin earlier than they are made
};

struct certificate_pair {
    char *certificate; // or a request for one
    char *key;
};

// For whom a certificate is. A host's is good at both ends of a connection, a client's only for who
// connects.
struct certificate_subject {
    bool client;
    const char *name; // of a host, or whatever a client is called
    const char *id;   // goes into the subject's serial number: by that it can be taken back
    const char *unit; // NULL: none
    uint64_t seconds; // that it is good for
};

// `cluster` goes into its name, for people. 0 or a sentence.
int certificate_make_ca(const char *cluster, struct certificate_pair *ca, struct error *err);
// A new key, and the request for its certificate.
int certificate_make_request(const char *host, struct certificate_pair *request, struct error *err);
// The certificate of `subject` for the key in the request: whatever else the request says is
// ignored. -EBADMSG if it isn't one, or isn't signed by its own key.
int certificate_sign(const struct certificate_pair *ca, const char *request,
                     const struct certificate_subject *subject, char **certificate,
                     struct error *err);
// The request for a certificate of the key that is in this file. 0 or a sentence.
int certificate_request_for(const char *key_path, const char *name, char **request,
                            struct error *err);
// Whether `key` (PEM) is that of the certificate in this file.
bool certificate_key_is_of(const char *certificate_path, const char *key);
// Whether a third of its time, or less, is left of a host's certificate with these dates (seconds
// of the wall clock): time for a new one.
bool certificate_is_due(int64_t begins, int64_t ends);
// Whether `certificate` (PEM) is signed by the CA in one file, and for the key in the other.
bool certificate_is_for(const char *ca_path, const char *certificate, const char *key_path);
void certificate_pair_free(struct certificate_pair *pair);
