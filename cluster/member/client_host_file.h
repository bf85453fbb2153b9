// "client-host" in the data directory of a host that is a client of its cluster and no member: in
// whose place other hosts have a log. Text, a line each:
//
//   ferry-client-host 1
//   cluster 32 hexadecimal digits
//   id 16 of them
//   member HOST:PORT     the members' addresses for clients, as last heard; several
#pragma once

#include "base/error.h"
#include "cluster/member/protocol.h"

enum { CLIENT_HOST_MEMBERS = 32 };

struct client_host_file {
    uint8_t cluster[16];
    uint64_t id;
    unsigned count;
    char members[CLIENT_HOST_MEMBERS][MEMBER_ADDRESS_SIZE];
};

bool client_host_file_exists(const char *directory);
// 0 or a sentence.
int client_host_file_load(struct client_host_file *file, const char *directory, struct error *err);
// All of it or nothing, durable.
int client_host_file_save(const struct client_host_file *file, const char *directory,
                          struct error *err);
// A member's address for clients; too many, and such as can't be in a line, are left out.
void client_host_file_add(struct client_host_file *file, const char *address);
