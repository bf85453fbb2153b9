// The parts of a member share these; nobody else includes this.
//
//   member.c           life: opening, founding, joining, the loop, stopping
//   member_raft.c      readies: writing, sending, applying, reads, leases
//   member_peers.c     connections with other members
//   member_clients.c   connections with clients, requests, watches
//   member_admin.c     records, removals, status
//   member_join.c      tokens, and who joins by one: the cluster's side
//   member_access.c    whose certificates are good for what, and those of clients
//   member_client_hosts.c  hosts that are no members: what they may, and what they are told
//   member_ca.c        the key of the cluster's CA, and how voters come to it
//   member_renew.c     this host's own certificate, before it ends
//   member_found.c     founding and joining: the new member's side
//   member_roles.c     who is a voter: Raft's configuration follows the records
//   member_snapshot.c  snapshots of the store, taken and received
#pragma once

#include <bsd/sys/queue.h>

#include "base/tls.h"
#include "cluster/member/connection.h"
#include "cluster/member/member.h"
#include "cluster/raft/raft.h"
#include "cluster/store/machine.h"
#include "cluster/wal/wal_thread.h"

enum {
    MEMBER_CHAINS = 4096,          // recent hashes kept for comparison
    MEMBER_CLIENT_QUEUE = 4 << 20, // bytes that a client may leave unread before it has to wait
    MEMBER_CLIENT_STALLED_TICKS = 1000, // and how long it may leave them, then it is cut off
    MEMBER_REQUESTS_MAX = 1024,         // of one client under way
    MEMBER_WATCHES_MAX = 4096,          // of one client
    MEMBER_TICK_DIVIDER = 10,           // ticks of one heartbeat
    MEMBER_UNKNOWN_MAX = 64, // connections of whoever hasn't said yet who they are, at each port
    MEMBER_UNKNOWN_SECONDS = 10,  // that they have for it
    MEMBER_STRANGER_SECONDS = 60, // and whoever joins, for all of it
    MEMBER_CLIENTS_MAX = 1024,
    MEMBER_LEADERLESS_ELECTIONS = 2, // time-outs without a leader, then watches go elsewhere
};

struct client;

// A proposal on its way through the log.
struct pending {
    TAILQ_ENTRY(pending) link;
    struct raft_position position;
    struct client *client; // NULL: nobody waits any more, or the member's own
    uint64_t request;
    enum protocol_request kind;
};

// A read, or a lease's renewal, on its way to its confirmation, and then to its index.
struct reading {
    TAILQ_ENTRY(reading) link;
    uint64_t context;
    uint64_t index; // once confirmed
    bool confirmed;
    uint64_t lease; // that is renewed; 0: it is a read
    struct client *client;
    uint64_t request;
    size_t length;
    uint8_t txn[];
};

struct watch {
    LIST_ENTRY(watch) link;
    struct client *client;
    uint64_t request;
    uint64_t next; // the first revision that was not delivered
    bool progress; // it is told how far there was nothing, too
    uint64_t told; // how far
    enum store_span span;
    struct store_bytes key, end; // point behind this struct
};

struct client {
    LIST_ENTRY(client) link;
    struct member *member;
    struct connection *connection;
    bool asked;       // something, at least once
    bool denied;      // its certificate is good for nothing here
    uint64_t since;   // the tick in which it came
    bool has_subject; // it came with a certificate:
    struct tls_subject subject;
    unsigned requests; // under way
    unsigned watch_count;
    LIST_HEAD(, watch) watches;
    uint64_t renewal_again; // no new certificate for a client host before this tick
    size_t queued_before;   // to see whether it reads
    uint32_t stalled_ticks;
    struct store_snapshot *streaming; // a snapshot being sent
    uint64_t stream_request;
};

struct peer {
    LIST_ENTRY(peer) link;
    struct member *member;
    uint64_t id;
    char address[MEMBER_ADDRESS_SIZE];
    struct connection *connection;
    bool up;
    uint32_t wait_ticks; // until the next try
    uint32_t tries;
    uint32_t newest_command; // that it understands; 0: not known yet
    bool takes_ca, holds_ca; // it knows of the CA's key as member_ca.c has it; it has it
    uint64_t ca_again;       // not handed to it before this tick
    uint64_t renewal_again;  // nor a new certificate of its own
};

struct inbound {
    LIST_ENTRY(inbound) link;
    struct member *member;
    struct connection *connection;
    uint64_t id;         // 0 before its hello
    uint64_t since;      // the tick in which it came
    uint64_t gone_since; // and that after which it was known to be gone; 0: it isn't
};

LIST_HEAD(retired_list, retired_credentials);

struct member {
    struct member_options options;
    uv_loop_t *loop;
    struct files files;
    bool own_files;
    struct wal *wal;
    struct wal_thread *wal_thread;
    struct raft *raft;
    struct store_machine *machine;
    uint64_t id;
    struct wal_identity identity;
    struct member_record self;
    struct tls_credentials *tls;
    struct connection_set connections;
    uv_stream_t *peer_listener, *client_listeners[4];
    uv_timer_t timer;
    uv_async_t wal_event;
    uv_poll_t wal_poll; // the end of a write that the loop began
    uint64_t tick_ns;
    uint64_t ticks;
    bool is_client_host; // what has come of joining: no member
    bool timer_open, async_open, stopping, ended, in_pump, poll_open;

    LIST_HEAD(, peer) peers;
    LIST_HEAD(, inbound) inbound;
    LIST_HEAD(, client) clients;
    TAILQ_HEAD(, pending) pending;
    TAILQ_HEAD(, reading) readings;
    uint64_t next_context;
    struct byte_writer answer; // scratch
    struct byte_writer frame;  // scratch
    struct raft_message_decoded *decoded;
    struct store_txn_decoded *txn;
    struct {
        uint64_t index, chain;
    } chains[MEMBER_CHAINS];

    uint64_t lease_term;       // the term in which lease deadlines are kept here
    uint64_t watched_revision; // watches were served up to it
    uint64_t compact_asked;    // by automatic compaction
    uint32_t version_asked;    // by this leader, in its term
    uint64_t removed_ticks;
    uint64_t leaderless_ticks;
    uint64_t turned_away_ticks; // before that tick no other client's fault is told
    uint64_t access_revision;   // up to it certificates in use were looked at

    struct {
        char *key;     // NULL: it isn't here
        char *writing; // what is being written; NULL while `working`: it is being removed
        uv_work_t work;
        bool working, clear_past;
        int failed;
        uint64_t no_voter_since; // the tick in which this member was last known to be a voter
    } ca;

    struct {
        bool known; // what the certificate in use says:
        struct tls_subject subject;
        char *writing; // the new one
        uv_work_t work;
        bool working;
        int failed;
        uint64_t again; // not asked for before this tick
        struct retired_list retired;
    } renewal;

    struct store_snapshot *taking;
    bool taking_done;
    // A received snapshot: its batch waits until the store is decoded.
    struct wal_batch *installing;
    uint64_t write_number;
    bool write_under_way;
    uv_work_t decode;
    bool decoding;
    struct raft_position decode_position;
    struct store_machine *decoded_machine;
    int decode_error;
};

// member.c
// Ends the member: says why, and lets the owner know. Only stopping comes after it.
void member_end(struct member *member, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void member_tick_ended(struct member *member);

// member_raft.c
int member_raft_create(struct member *member, struct error *err);
void member_pump(struct member *member);
void member_wal_events(struct member *member);
void member_written(struct member *member, struct wal_batch *batch);
void member_raft_tick(struct member *member);
// Proposes; the outcome goes to the client. Returns a refusal, or STORE_OK: under way.
enum store_status member_propose(struct member *member, const struct byte_writer *command,
                                 struct client *client, uint64_t request,
                                 enum protocol_request kind);
enum store_status member_read(struct member *member, struct client *client, uint64_t request,
                              const void *txn, size_t length);
// Renews a lease: for others than the leader, STORE_NOT_LEADER.
enum store_status member_renew(struct member *member, struct client *client, uint64_t request,
                               uint64_t lease);
void member_forget_client(struct member *member, struct client *client);
enum store_status member_status_of(int raft_error);

// member_peers.c
void member_peer_accept(uv_stream_t *listener, int status);
void member_peer_learn(struct member *member, uint64_t id, const char *address);
void member_peer_send(struct member *member, const struct raft_message *message);
void member_peers_tick(struct member *member);
void member_peers_refresh(struct member *member);
uint32_t member_peers_understand(struct member *member);
void member_peers_send_hash(struct member *member);
struct peer *member_peer_find(struct member *member, uint64_t id);
// One that has the CA's key and can be reached; NULL: none.
struct peer *member_peer_with_ca(struct member *member);
void member_peers_send_ca_held(struct member *member);
void member_peers_ask_for_ca(struct member *member);
void member_peers_end_gone(struct member *member);
void member_peers_free(struct member *member);

// member_clients.c
void member_client_accept(uv_stream_t *listener, int status);
void member_answer(struct client *client, uint64_t request, const void *bytes, size_t length);
void member_answer_status(struct member *member, struct client *client, uint64_t request,
                          enum store_status status);
void member_serve_watches(struct member *member);
void member_clients_tick(struct member *member);
void member_clients_close(struct member *member);

// member_admin.c
const char *member_leader_address(struct member *member, char out[MEMBER_ADDRESS_SIZE]);
bool member_find_record(struct member *member, uint64_t id, struct member_record *record);
bool member_is_gone(struct member *member, uint64_t id);
// In the order of their ids; how many.
unsigned member_list_records(struct member *member, struct member_record *records, unsigned max);
// For the client that asked, or for none.
enum store_status member_propose_txn(struct member *member, const struct store_txn *txn,
                                     struct client *client, uint64_t request,
                                     enum protocol_request kind);
void member_answer_json_status(struct member *member, struct client *client, uint64_t request);
void member_answer_json_members(struct member *member, struct client *client, uint64_t request);
void member_answer_json_clients(struct member *member, struct client *client, uint64_t request);
void member_answer_json_leases(struct member *member, struct client *client, uint64_t request);
enum store_status member_admin_request(struct member *member, struct client *client,
                                       uint64_t request, enum protocol_request kind,
                                       struct byte_reader *body);
// The answer of a transaction that such a request became, as its client wants it.
void member_admin_answer(struct member *member, const struct pending *pending,
                         const struct byte_writer *answer);

// member_client_hosts.c
// The record of a client host that hasn't been removed.
bool member_find_client_host(struct member *member, uint64_t id, struct member_record *record);
void member_each_client_host(struct member *member,
                             void (*each)(void *context, const struct member_record *record),
                             void *context);
bool subject_is_client_host(const struct tls_subject *subject);
// What whoever comes with such a certificate may ask; and read, write and watch in the store.
bool client_host_may_ask(enum protocol_request kind);
bool client_host_may_txn(const struct tls_subject *who, const struct store_txn *txn);
bool client_host_may_watch(struct store_bytes key, enum store_span span, struct store_bytes end);
enum store_status member_request_access(struct member *member, struct client *client,
                                        uint64_t request, struct byte_reader *body);
enum store_status member_request_host_renew(struct member *member, struct client *client,
                                            uint64_t request, struct byte_reader *body);

// member_ca.c
struct certificate_pair;
// The cluster's CA with its key, where this member has it; to be freed.
bool member_ca(struct member *member, struct certificate_pair *ca);
bool member_ca_held(const struct member *member);
int member_ca_load(struct member *member, struct error *err);
void member_ca_free(struct member *member);
void member_ca_tick(struct member *member);
// Whether that member (NULL: not known) has it, as far as it must; else it is sent.
bool member_ca_is_with(struct member *member, struct peer *peer);
// What another member said. `peer` may be NULL. False: it makes no sense.
bool member_ca_take_frame(struct member *member, struct peer *peer, uint16_t type,
                          const uint8_t *payload, size_t length);

// member_renew.c
// Loads the options' certificate, key and CA into *tls. What was there is kept in `retired`, since
// sessions that are open point to it.
int member_tls_load(const struct member_options *options, struct tls_credentials **tls,
                    struct retired_list *retired, struct error *err);
void member_tls_free_retired(struct retired_list *retired);
void member_renew_tick(struct member *member);
void member_renew_free(struct member *member);
// As member_ca_take_frame().
bool member_renew_take_frame(struct member *member, struct peer *peer, uint16_t type,
                             const uint8_t *payload, size_t length);

// member_join.c
// The certificate of that host for the key in the request (PEM); to be freed.
enum store_status member_sign_host(struct member *member, const struct member_record *record,
                                   const char *request, char **certificate);
enum store_status member_request_token(struct member *member, struct client *client,
                                       uint64_t request, struct byte_reader *body);
enum store_status member_request_join(struct member *member, struct client *client,
                                      uint64_t request, enum protocol_request kind,
                                      struct byte_reader *body);
// Appends to the answer to REQUEST_ENROL what its transaction has read back.
void member_answer_certificate(struct member *member, const struct byte_writer *answer,
                               struct byte_writer *w);

// member_access.c
// The id that a certificate carries; false: none.
bool subject_id(const struct tls_subject *subject, uint64_t *id);
// Whether `id` is who its certificate says, where the cluster makes its own.
bool member_is_who(struct member *member, const struct connection *connection, uint64_t id);
enum store_status member_request_client_sign(struct member *member, struct client *client,
                                             uint64_t request, struct byte_reader *body);
enum store_status member_request_client_revoke(struct member *member, struct client *client,
                                               uint64_t request, struct byte_reader *body);
// Appends to the answer what its transaction has read back: the certificate, and the CA's.
void member_answer_client_certificate(struct member *member, const struct byte_writer *answer,
                                      struct byte_writer *w);
// Says it in the log, if nothing like it was said within the last second.
void member_log_turned_away(struct member *member, const struct connection *connection,
                            const char *whom, const char *reason);
uint64_t member_ticks_of(const struct member *member, unsigned seconds);

// member_found.c
// A key and a certificate by that CA, in the directory's "tls".
// Writes a file beside the log: all of it or nothing, durable, for its owner alone.
int member_write_file(const char *directory, const char *name, const char *text, struct error *err);
// Writes a file of the directory's "tls": all of it or nothing, durable, for its owner alone.
int member_write_tls_file(const char *directory, const char *name, const char *text,
                          struct error *err);
int member_make_tls(const struct member_options *options, const struct certificate_pair *ca,
                    uint64_t member_id, struct error *err);
int member_found(struct member *member, const struct wal_options *options, struct error *err);
int member_join(struct member *member, const struct wal_options *options, struct error *err);

// member_roles.c
void member_reconcile(struct member *member);
enum store_status member_request_roles(struct member *member, struct client *client,
                                       uint64_t request, struct byte_reader *body);

// member_snapshot.c
void member_snapshot_tick(struct member *member);
void member_snapshot_written(struct member *member, const struct wal_event *event);
void member_snapshot_cancel(struct member *member);
void member_install(struct member *member, struct wal_batch *batch, struct raft_position last);
int member_load_machine(const struct wal *wal, struct raft_position last, uint32_t newest,
                        struct store_machine **machine, struct error *err);
bool member_stream_snapshot(struct client *client);
