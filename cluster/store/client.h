// A client of the store that waits for its answers: for the command line, for joining, for tests.
//
// It knows several addresses, follows the hint to the leader, and tries again elsewhere what was
// refused for want of one, until the time is up. A write that may have been done is never sent a
// second time: it ends as STORE_UNKNOWN.
#pragma once

#include "base/error.h"
#include "base/tls.h"
#include "cluster/member/protocol.h"

struct store_client;

// "HOST:PORT" or "unix:PATH", several with commas. Connects when it is first used.
int store_client_create(struct store_client **client, const char *addresses, struct error *err);
// Mutual TLS for TCP addresses.
int store_client_set_tls(struct store_client *client, const char *certificate, const char *key,
                         const char *ca, struct error *err);
// TLS for who has no certificate yet: the member must belong to the CA of that SHA-256, and lets
// such clients do nothing but REQUEST_ENROL.
int store_client_set_pin(struct store_client *client,
                         const uint8_t fingerprint[TLS_FINGERPRINT_BYTES], struct error *err);
// The member's certificate must be for that name; without, any of the CA will do.
int store_client_set_tls_name(struct store_client *client, const char *name, struct error *err);
void store_client_set_timeout(struct store_client *client, uint64_t ns); // 5 s at first
// Stays with the member it is connected to: no hints, no other address.
void store_client_set_sticky(struct store_client *client, bool sticky);
// Closes the connection: the next request goes to another member.
void store_client_leave(struct store_client *client);
void store_client_destroy(struct store_client *client);

// One request. Returns the status; *answer is the whole answer, status included, and lives until
// the next call. STORE_UNKNOWN with a message in `err` where no answer came (also for reads).
enum store_status store_client_request(struct store_client *client, enum protocol_request kind,
                                       const void *body, size_t length, struct byte_reader *answer,
                                       struct error *err);

// A transaction; free the result. result->status tells what became of it.
int store_client_txn(struct store_client *client, const struct store_txn *txn, bool stale,
                     struct store_result *result, struct error *err);

// Waits for the next frame that belongs to the last request (watch, snapshot): 0 with its type and
// payload (after the request's id), -ETIMEDOUT, or an error.
int store_client_next(struct store_client *client, uint64_t timeout_ns, uint16_t *type,
                      struct byte_reader *payload, struct error *err);
// The socket, to poll for store_client_next().
int store_client_descriptor(const struct store_client *client);
