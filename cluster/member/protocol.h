// What members say to each other and to clients, in the frames of connection.h. docs/store.md has
// the tables.
#pragma once

#include "cluster/store/store.h"

enum protocol_frame {
    // Between members. One connection carries one direction; the other side dials its own.
    PROTOCOL_HELLO = 1,  // both ways, first
    PROTOCOL_REFUSE = 2, // the other way, then it closes
    PROTOCOL_RAFT = 3,
    PROTOCOL_HASH = 4,
    // The key of the cluster's CA (member_ca.c): here it is, who has it, who needs it.
    PROTOCOL_CA_KEY = 5,
    PROTOCOL_CA_HELD = 6,
    PROTOCOL_CA_WANTED = 7,
    // Renewing a host's certificate (member_renew.c): the request, and what comes of it.
    PROTOCOL_CERTIFICATE_WANTED = 8,
    PROTOCOL_CERTIFICATE = 9,
    // Between clients and members.
    PROTOCOL_REQUEST = 16,
    PROTOCOL_ANSWER = 17,
    PROTOCOL_EVENTS = 18,
    PROTOCOL_CHUNK = 19,
};

enum protocol_request {
    REQUEST_TXN = 1,
    REQUEST_GRANT = 2,
    REQUEST_REVOKE = 3,
    REQUEST_RENEW = 4,
    REQUEST_COMPACT = 5,
    REQUEST_WATCH = 6,
    REQUEST_WATCH_CANCEL = 7,
    REQUEST_STATUS = 8,
    REQUEST_MEMBERS = 9,
    REQUEST_MEMBER_REMOVE = 10,
    REQUEST_MOVE_LEADER = 11,
    REQUEST_SNAPSHOT = 12,
    REQUEST_HASH = 13,
    REQUEST_TOKEN = 14,
    REQUEST_JOIN = 15,
    REQUEST_LEASES = 16,
    REQUEST_MEMBER_ROLES = 17,
    REQUEST_ENROL = 18,
    REQUEST_CLIENT_SIGN = 19,
    REQUEST_CLIENT_REVOKE = 20,
    REQUEST_CLIENTS = 21,
    REQUEST_ACCESS = 22,
    REQUEST_HOST_RENEW = 23,
};

// What is spoken inside TLS at the port for clients, by ALPN: without, frames; the lines of the
// control protocol (cluster/api/remote.h); or the console or log of one machine.
#define PROTOCOL_CONTROL "ferry-control/1"
#define PROTOCOL_STREAM  "ferry-stream/1"

enum { PROTOCOL_STALE = 1 }; // flag of REQUEST_TXN: this member's own, maybe old, state will do
// Flag of REQUEST_WATCH: with frames without events, that say up to where there are none.
enum { PROTOCOL_WATCH_PROGRESS = 1 };

enum { MEMBER_NAME_SIZE = 41, MEMBER_ADDRESS_SIZE = 280 };

// Whether a member is to be a voter. Numbers are the store's.
enum member_wish {
    MEMBER_WISH_VOTER = 0,   // as soon as it has caught up
    MEMBER_WISH_AUTO = 1,    // if an odd number of voters comes of it, up to MEMBER_VOTERS_AUTO
    MEMBER_WISH_LEARNER = 2, // it gets everything and decides nothing
    // Of who joins, and not in a member's record: to be a client host, which has no log and no
    // store; or that one or MEMBER_WISH_AUTO, as the cluster likes.
    MEMBER_WISH_CLIENT = 3,
    MEMBER_WISH_ANY = 4,
    MEMBER_WISH_LAST = MEMBER_WISH_ANY,
};
enum {
    MEMBER_VOTERS_AUTO = 7, // more make each write slower, and no cluster safer
    // All voters and two that can take their places: with so many members, who joins with
    // MEMBER_WISH_ANY becomes a client host.
    MEMBER_MEMBERS_AUTO = 9,
};

// What the store holds about a member, under its own key.
struct member_record {
    uint64_t id;
    char name[MEMBER_NAME_SIZE];
    char peer[MEMBER_ADDRESS_SIZE];   // where other members reach it
    char client[MEMBER_ADDRESS_SIZE]; // where clients do
    enum member_wish wish;
};

enum { MEMBER_KEY_SIZE = 8 + 16 };

// "\0member/" and the id in hexadecimal.
void member_key(uint8_t key[MEMBER_KEY_SIZE], uint64_t id);
bool member_key_parse(struct store_bytes key, uint64_t *id);
// "\0gone/" and the id: there for ever once that member was removed. Ids are never used again, so
// whoever finds it can tell that member so.
enum { MEMBER_GONE_KEY_SIZE = 6 + 16 };
void member_gone_key(uint8_t key[MEMBER_GONE_KEY_SIZE], uint64_t id);
bool member_gone_key_parse(struct store_bytes key, uint64_t *id);
// "\0agent/" and the id: the record of a client host, which is none of the members, but has an id
// like theirs. Its peer address is empty.
enum { CLIENT_HOST_KEY_SIZE = 7 + 16 };
void client_host_key(uint8_t key[CLIENT_HOST_KEY_SIZE], uint64_t id);
bool client_host_key_parse(struct store_bytes key, uint64_t *id);
// Keys of the cluster's own CA, where it has one: "\0ca/certificate", PEM; and "\0certificate/" and
// a member's id: the last one that was made for it. "\0ca/key" is from older versions
// (member_ca.c).
#define MEMBER_CA_CERTIFICATE_KEY "\0ca/certificate"
#define MEMBER_CA_KEY_KEY         "\0ca/key"

// What the store holds about a certificate for a client, under "\0client/" and its id: until it
// ends by itself, also when it was taken back.
struct client_record {
    uint64_t id;
    bool revoked, read_only;
    uint64_t made, ends; // seconds since 1970
    char name[MEMBER_NAME_SIZE];
    struct store_bytes certificate; // PEM, with the CA's behind it; points into what was decoded
};
enum { CLIENT_KEY_SIZE = 8 + 16 };
void client_key(uint8_t key[CLIENT_KEY_SIZE], uint64_t id);
bool client_key_parse(struct store_bytes key, uint64_t *id);
void client_record_encode(struct byte_writer *w, const struct client_record *record);
bool client_record_decode(struct client_record *record, struct store_bytes value);

void member_record_encode(struct byte_writer *w, const struct member_record *record);
// Records of before there were wishes wish to be voters.
bool member_record_decode(struct member_record *record, struct store_bytes value);
// One that is followed by others, as member_record_encode() wrote it.
bool member_record_read(struct byte_reader *r, struct member_record *record);
const char *member_wish_name(enum member_wish wish);
// What people say whom a host shall be when it joins: "auto", "member", "learner", "client".
bool member_wish_of_role(const char *role, enum member_wish *wish);
