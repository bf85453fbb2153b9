// The console and the logs of a machine on another host than this: by this host's ferryd, which
// connects to that host's, or with a client's certificate directly.
#pragma once

#include <jansson.h>
#include <pthread.h>

#include "cli/cluster_access.h"

struct vm_stream {
    int fd; // what the machine says, and hears; the caller's to close before vm_stream_close()
    struct cluster_access access;
    struct tls_stream *tls; // NULL: ferryd has the other end
    int inner;              // what the thread moves bytes to and from
    pthread_t thread;
};

// `machine` is what "vm.show" says of it; `what` is "console", "log" or "vmm-log". 0 or a sentence.
int vm_stream_open(struct vm_stream *stream, const struct common_options *common,
                   const json_t *machine, const char *what, bool follow, struct error *err);
void vm_stream_close(struct vm_stream *stream);
