#include "cli/cluster_access.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "cluster/member/protocol.h"

enum { TIMEOUT_EACH_MS = 5000 };

bool cluster_access_is_elsewhere(const struct common_options *common)
{
    // What comes from the environment is meant for when nothing else is said.
    return common->cluster && common->cluster[0] &&
           !(common->runtime_dir && common->cluster == getenv("FERRY_CLUSTER"));
}

// ---- where ----

static int add_address(struct cluster_access *access, const char *text, size_t length,
                       struct error *err)
{
    char host[TLS_STREAM_HOST_SIZE], port[TLS_STREAM_PORT_SIZE];
    if (strncmp(text, "tls://", 6) == 0 && length >= 6) {
        text += 6;
        length -= 6;
    }
    if (access->count == CLUSTER_ADDRESSES_MAX)
        return 0; // enough to find one that answers
    char *one = access->addresses[access->count];
    if (length >= CLUSTER_ADDRESS_SIZE)
        return error_set(err, EINVAL, "'%.*s': the address is too long", 60, text);
    memcpy(one, text, length);
    one[length] = 0;
    if (!tls_stream_address(one, host, port))
        return error_set(err, EINVAL, "'%s': not an address of the form HOST:PORT", one);
    access->count++;
    return 0;
}

static int take_list(struct cluster_access *access, const char *list, struct error *err)
{
    int r = 0;
    while (*list && !r) {
        size_t length = strcspn(list, ",");
        r = add_address(access, list, length, err);
        list += length + (list[length] == ',');
    }
    if (!r && !access->count)
        r = error_set(err, EINVAL, "--cluster: no address is given (tls://HOST:PORT)");
    return r;
}

static int read_addresses(struct cluster_access *access, struct error *err)
{
    char path[PATH_MAX + 16], line[CLUSTER_ADDRESS_SIZE];
    int r = 0;
    snprintf(path, sizeof(path), "%s/addresses", access->directory);
    FILE *file = fopen(path, "re");
    if (!file)
        return error_set_errno(err, errno, "cluster '%s': its file 'addresses'", access->directory);
    while (!r && fgets(line, sizeof(line), file)) {
        size_t length = strcspn(line, " \t\r\n");
        if (length && line[0] != '#')
            r = add_address(access, line, length, err);
    }
    fclose(file);
    if (!r && !access->count)
        r = error_set(err, EINVAL, "'%s' names no address", path);
    return r;
}

static int choose_directory(struct cluster_access *access, const char *given, struct error *err)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    int n;
    if (given && given[0])
        n = snprintf(access->directory, sizeof(access->directory), "%s", given);
    else if (config && config[0] == '/')
        n = snprintf(access->directory, sizeof(access->directory), "%s/ferry/cluster", config);
    else
        n = snprintf(access->directory, sizeof(access->directory), "%s/.config/ferry/cluster",
                     home ? home : "");
    return n < 0 || (size_t)n >= sizeof(access->directory)
               ? error_set(err, ENAMETOOLONG, "the certificates' directory: its path is too long")
               : 0;
}

static int find(struct cluster_access *access, const struct common_options *common,
                struct error *err)
{
    const char *cluster = common->cluster;
    struct stat st;
    if (common->runtime_dir)
        return error_set(
            err, EINVAL,
            "--cluster is for one elsewhere and --runtime-dir for this host: give one");
    if (strncmp(cluster, "tls://", 6) == 0) {
        int r = choose_directory(access, common->certificates, err);
        return r ? r : take_list(access, cluster, err);
    }
    if (stat(cluster, &st) != 0 || !S_ISDIR(st.st_mode))
        return error_set(
            err, ENOENT,
            "cluster '%s': neither a directory (`ferry cluster client-certificate` on a "
            "host makes one) nor tls://HOST:PORT",
            cluster);
    int r = choose_directory(access, cluster, err);
    return r ? r : read_addresses(access, err);
}

int cluster_access_open(struct cluster_access *access, const struct common_options *common,
                        struct error *err)
{
    char paths[3][PATH_MAX + 16];
    static const char *const names[] = {"cert.pem", "key.pem", "ca.pem"};
    *access = (struct cluster_access){.count = 0};
    int r = find(access, common, err);
    for (int i = 0; i < 3; i++)
        snprintf(paths[i], sizeof(paths[i]), "%s/%s", access->directory, names[i]);
    return r ? r
             : tls_credentials_load(&access->credentials, tls_source(paths[0]),
                                    tls_source(paths[1]), tls_source(paths[2]), err);
}

void cluster_access_close(struct cluster_access *access)
{
    tls_credentials_free(access->credentials);
    access->credentials = NULL;
}

// ---- connecting ----

// The other side says little of why it refuses a certificate: what can be seen here is added.
static void explain(const struct cluster_access *access, struct error *err)
{
    char path[PATH_MAX + 16], when[32];
    struct tls_subject subject;
    struct error ignored;
    struct tm utc;
    snprintf(path, sizeof(path), "%s/cert.pem", access->directory);
    if (tls_file_subject(tls_source(path), &subject, &ignored) || subject.ends < 0)
        return;
    time_t ends = (time_t)subject.ends;
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M UTC", gmtime_r(&ends, &utc));
    if (time(NULL) <= ends)
        return;
    struct error said = *err;
    error_set(err, said.code,
              "the certificate '%.200s' has expired on %s: `ferry cluster "
              "client-certificate` on a host makes a new one (%.200s)",
              path, when, said.message);
}

int cluster_access_dial(struct cluster_access *access, const char *address, const char *protocol,
                        int timeout_ms, struct tls_stream **stream, struct error *err)
{
    char host[TLS_STREAM_HOST_SIZE], port[TLS_STREAM_PORT_SIZE];
    uint64_t end = clock_monotonic_ns() + (uint64_t)timeout_ms * NSEC_PER_MSEC;
    if (!tls_stream_address(address, host, port))
        return error_set(err, EINVAL, "'%s': not an address of the form HOST:PORT", address);
    int r = tls_stream_dial(stream, host, port, access->credentials, protocol, end, err);
    if (r == -EPROTO)
        explain(access, err);
    return r;
}

static int control_at(struct cluster_access *access, const char *address,
                      struct control_client **client, int timeout_ms, struct error *err)
{
    struct tls_stream *stream = NULL;
    int r = cluster_access_dial(access, address, PROTOCOL_CONTROL, timeout_ms, &stream, err);
    if (r)
        return r;
    r = control_client_begin(client, stream, timeout_ms, err);
    if (r)
        error_prefix(err, "%s", address);
    if (r == -EPROTO)
        explain(access, err);
    return r;
}

int cluster_access_control(struct cluster_access *access, struct control_client **client,
                           int timeout_ms, struct error *err)
{
    int each = access->count > 1 && timeout_ms > TIMEOUT_EACH_MS ? TIMEOUT_EACH_MS : timeout_ms;
    struct error told = {0};
    for (unsigned i = 0; i < access->count; i++) {
        struct error now = {0};
        const char *address = access->addresses[(access->first + i) % access->count];
        int r = control_at(access, address, client, each, &now);
        if (!r)
            return 0;
        // A refusal tells more than a host that is off.
        if (!told.code || r == -EACCES || r == -EPROTO)
            told = now;
    }
    *err = told;
    return -told.code;
}
