// What a client host asks the leader now and then: who the members are, whose certificates are
// worth nothing any more; and a new certificate for itself, when a third of its time is left.
//
// Threads: one at a time; a look waits for its answers.
#pragma once

#include "base/error.h"
#include "cluster/member/client_host_file.h"
#include "cluster/member/member.h"
#include "cluster/store/client.h"

struct id_list {
    uint64_t *ids;
    size_t count;
};

struct client_host_lists {
    uint32_t sum; // of the answer that they came with; 0: none came yet
    struct id_list gone, revoked;
    char (*refused)[TLS_NAME_SIZE]; // digests of certificates that the cluster hasn't made
    size_t refused_count;
};

struct client_host_look {
    const struct member_options *options; // set once
    // Asked with, and set anew where the answer has others, which are in the directory then.
    struct client_host_file file;
    uint32_t known; // the sum of what is known already
    // What came of it.
    enum store_status status;
    struct error err;
    bool other_cluster, has_lists, renewed;
    struct client_host_lists lists;
    // Kept from look to look.
    struct store_client *client;
    char addresses[2048];
    uint64_t renew_again; // CLOCK_MONOTONIC
};

void client_host_look(struct client_host_look *look);
void client_host_look_free(struct client_host_look *look);
void client_host_lists_free(struct client_host_lists *lists);
