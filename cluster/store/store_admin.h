// What only the embedded store has, beside store.h, which etcd could give as well: its members, who
// leads, hashes, snapshots. All of it waits for its answers.
#pragma once

#include <jansson.h>

#include "cluster/store/client.h"

struct store_member {
    uint64_t id;
    char name[MEMBER_NAME_SIZE];
    char role[16]; // "leader", "voter", "learner", "leaving", "joining"
    char peer[MEMBER_ADDRESS_SIZE], client[MEMBER_ADDRESS_SIZE];
    bool heard_of;   // by the leader: `stored` says something
    uint64_t stored; // the last entry of the log that it is known to hold
};

enum { STORE_MEMBERS_MAX = 32 };

struct store_members {
    bool changing; // a change of the members is unfinished
    unsigned count;
    struct store_member members[STORE_MEMBERS_MAX];
};

// The JSON of an answer, behind its head; the caller's. NULL and a sentence: it can't be
// understood.
json_t *store_admin_json(struct byte_reader *answer, struct error *err);

// Each returns what became of the request. With STORE_UNKNOWN, `err` says why there is no answer.
enum store_status store_admin_members(struct store_client *client, struct store_members *members,
                                      struct error *err);
// One step for all of them. Somebody must stay.
enum store_status store_admin_remove(struct store_client *client, const uint64_t *ids,
                                     unsigned count, struct error *err);
enum store_status store_admin_move_leader(struct store_client *client, uint64_t id,
                                          struct error *err);

// A token admits one member (member_options.join), until `seconds` from now have passed. With `ca`,
// the file with the cluster's CA, the token carries its fingerprint: who joins by it talks to that
// cluster or to none.
enum { STORE_TOKEN_SIZE = 32 + 1 + 64 + 1 };
enum store_status store_admin_token(struct store_client *client, uint64_t seconds, const char *ca,
                                    char token[STORE_TOKEN_SIZE], struct error *err);
// The token's secret, and whether `ca` (NULL: none) is what it was made for. 0 or a sentence.
enum { STORE_SECRET_SIZE = 33 };
int store_token_parse(const char *token, size_t length, const char *ca,
                      char secret[STORE_SECRET_SIZE], struct error *err);

// The token's secret, and the SHA-256 of the CA that it names; an error if it names none.
int store_token_split(const char *token, size_t length, char secret[STORE_SECRET_SIZE],
                      uint8_t fingerprint[TLS_FINGERPRINT_BYTES], struct error *err);

struct store_hash {
    uint64_t applied; // as of this entry of the log
    uint64_t running; // over everything that was ever applied
    uint64_t state;   // over all that is there: members that applied the same have the same
};
// Of the member that the client is connected to.
enum store_status store_admin_hash(struct store_client *client, struct store_hash *hash,
                                   struct error *err);

// All keys and leases of that member, in pieces. `piece` returns 0, or an error that ends it. 0 or
// an error.
int store_admin_snapshot(struct store_client *client,
                         int (*piece)(void *context, const void *bytes, size_t length),
                         void *context, struct error *err);
