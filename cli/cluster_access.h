// How the command line reaches a cluster from elsewhere: by TLS, with a client's certificate, at
// any of its hosts.
//
// A cluster is named by a directory with ca.pem, cert.pem, key.pem and `addresses` (one HOST:PORT a
// line), as `ferry cluster client-certificate` makes one; or by "tls://HOST:PORT[,HOST:PORT...]",
// with the certificates of another directory.
#pragma once

#include <limits.h>

#include "base/control_client.h"
#include "base/tls_stream.h"
#include "cli/options.h"

enum { CLUSTER_ADDRESSES_MAX = 16, CLUSTER_ADDRESS_SIZE = 280 };

struct cluster_access {
    char directory[PATH_MAX]; // of the certificates
    char addresses[CLUSTER_ADDRESSES_MAX][CLUSTER_ADDRESS_SIZE];
    unsigned count, first; // how many, and which is tried first
    struct tls_credentials *credentials;
};

// Whether --cluster or FERRY_CLUSTER names one; --runtime-dir comes before the latter.
bool cluster_access_is_elsewhere(const struct common_options *common);
// 0 or a sentence. Close it also then.
int cluster_access_open(struct cluster_access *access, const struct common_options *common,
                        struct error *err);
// A connection to `address`, or (NULL) to the first host that answers, which speaks `protocol`.
int cluster_access_dial(struct cluster_access *access, const char *address, const char *protocol,
                        int timeout_ms, struct tls_stream **stream, struct error *err);
// To the first one that serves us, counted from `first` on.
int cluster_access_control(struct cluster_access *access, struct control_client **client,
                           int timeout_ms, struct error *err);
// Not before what was made by it is closed.
void cluster_access_close(struct cluster_access *access);
