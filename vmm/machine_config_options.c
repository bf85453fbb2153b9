// Disks, networks and vsock devices as the command line writes them.
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "devices/virtio/virtio_vsock.h"
#include "vmm/machine_config_internal.h"
#include "vmm/machine_limits.h"

int machine_config_parse_cpus(const char *text, unsigned *cpus, struct error *err)
{
    uint64_t number;
    if (units_parse_number(text, MACHINE_CPUS_LIMIT, &number) || number == 0)
        return error_set(err, EINVAL, "'%s' is not a number from 1 to %d", text,
                         MACHINE_CPUS_LIMIT);
    *cpus = (unsigned)number;
    return 0;
}

// One thing that a disk is told behind its path: `length` bytes at `flag`. False when unknown.
static bool set_disk_flag(struct disk_config *disk, const char *flag, size_t length)
{
    static const char cache[] = "cache=";
    const size_t prefix = sizeof(cache) - 1;
    if (length == 2 && memcmp(flag, "ro", 2) == 0) {
        disk->read_only = true;
        return true;
    }
    if (length <= prefix || memcmp(flag, cache, prefix) != 0)
        return false;
    int value = config_find_name(config_disk_cache_names, flag + prefix, length - prefix);
    if (value >= 0)
        disk->cache = (enum block_cache)value;
    return value >= 0;
}

int machine_config_add_disk(struct machine_config *config, const char *text, struct error *err)
{
    size_t length = strlen(text), used = 0;
    char *path = malloc(length + 1);
    if (!path)
        return error_set(err, ENOMEM, "out of memory");
    const char *at = text;
    while (*at && !(at[0] == ',' && at[1] != ',')) {
        at += at[0] == ',' ? 2 : 1;
        path[used++] = at[-1];
    }
    path[used] = 0;

    struct disk_config disk = {.number = NUMBER_ANY, .path = path};
    while (*at == ',') {
        const char *flag = at + 1;
        size_t flag_length = strcspn(flag, ",");
        int limit = machine_limits_set_option(&disk.limits, flag, flag_length, err);
        if (limit < 0) {
            free(path);
            return error_prefix(err, "disk '%s'", text);
        }
        if (!limit && !set_disk_flag(&disk, flag, flag_length)) {
            free(path);
            return error_set(err, EINVAL,
                             "disk '%s': '%.*s' is not something a disk can be told (known: ro, "
                             "cache=writeback, cache=none, cache=unsafe, " MACHINE_LIMITS_KEYS
                             "; a comma in the path is written twice)",
                             text, (int)flag_length, flag);
        }
        at = flag + flag_length;
    }
    if (!used) {
        free(path);
        return error_set(err, EINVAL, "disk '%s': no path given", text);
    }
    return config_add_disk(config, &disk, err);
}

int config_parse_mac(const char *text, uint8_t mac[6], struct error *err)
{
    unsigned b[6];
    int end = 0;
    bool shaped = strlen(text) == 17 && sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1],
                                               &b[2], &b[3], &b[4], &b[5], &end) == 6;
    if (!shaped || end != 17 || strspn(text, "0123456789abcdefABCDEF:") != 17)
        return error_set(err, EINVAL, "'%s' is not a network address (XX:XX:XX:XX:XX:XX)", text);
    unsigned any = 0;
    for (int i = 0; i < 6; i++) {
        mac[i] = (uint8_t)b[i];
        any |= b[i];
    }
    if (!any || mac[0] & 1)
        return error_set(err, EINVAL,
                         "'%s' is not the address of one card (all zero, or a multicast address)",
                         text);
    return 0;
}

static int parse_queues(const char *text, unsigned *queues, struct error *err)
{
    char *end;
    unsigned long count = strtoul(text, &end, 10);
    if (*end || end == text || count < 1 || count > MACHINE_NET_QUEUES_LIMIT)
        return error_set(err, EINVAL, "queues: '%s' is not a number from 1 to %d", text,
                         MACHINE_NET_QUEUES_LIMIT);
    *queues = (unsigned)count;
    return 0;
}

// Adds a word "tcp=SPEC" to what passt shall forward.
int config_add_forward(struct net_config *net, const char *protocol, const char *spec,
                       struct error *err)
{
    // What passt knows: ports, ranges, addresses and interfaces.
    if (!*spec || strspn(spec, "0123456789:-/%.~abcdefghijklmnopqrstuvwxyz") != strlen(spec))
        return error_set(err, EINVAL, "%s: '%s' is no port to forward (HOSTPORT[:GUESTPORT])",
                         protocol, spec);
    char *list;
    if (asprintf(&list, "%s%s%s=%s", net->forwards ? net->forwards : "", net->forwards ? "," : "",
                 protocol, spec) < 0)
        return error_set(err, ENOMEM, "out of memory");
    free(net->forwards);
    net->forwards = list;
    return 0;
}

// One KEY=VALUE of a network. 0 or a sentence.
static int set_net_option(struct net_config *net, const char *key, const char *value,
                          struct error *err)
{
    static const char *const known[] = {
        [NET_TAP] = "a tap can be told (known: queues=, mac=, " MACHINE_LIMITS_KEYS ")",
        [NET_NONE] = "none can be told",
        [NET_USER] = "user can be told (known: tcp=, udp=, mac=, " MACHINE_LIMITS_KEYS ")",
        [NET_SOCKET] = "a socket can be told (known: listen, mac=, " MACHINE_LIMITS_KEYS ")"};
    if (strcmp(key, "mac") == 0)
        return config_parse_mac(value, net->mac, err);
    if (net->kind == NET_TAP && strcmp(key, "queues") == 0)
        return parse_queues(value, &net->queues, err);
    if (net->kind == NET_USER && (strcmp(key, "tcp") == 0 || strcmp(key, "udp") == 0))
        return config_add_forward(net, key, value, err);
    if (net->kind == NET_SOCKET && strcmp(key, "listen") == 0 && !*value) {
        net->listens = true;
        return 0;
    }
    return error_set(err, EINVAL, "'%s' is not something %s", key, known[net->kind]);
}

// The options behind the first comma; `text` is cut into pieces.
static int set_net_options(struct net_config *net, char *text, struct error *err)
{
    char *rest = text;
    for (char *option; (option = strsep(&rest, ","));) {
        int limit = machine_limits_set_option(&net->limits, option, strlen(option), err);
        if (limit < 0)
            return limit;
        if (limit)
            continue;
        char *value = strchr(option, '=');
        if (value)
            *value++ = 0;
        int r = set_net_option(net, option, value ? value : "", err);
        if (r)
            return r;
    }
    return 0;
}

static const struct {
    const char *word;
    enum net_kind kind;
    bool has_value;
    const char *lacks; // what is missing when there is no value
} net_words[] = {
    {"tap=", NET_TAP, true, "no interface given"},
    {"socket=", NET_SOCKET, true, "no path given"},
    {"user", NET_USER, false, NULL},
    {"none", NET_NONE, false, NULL},
};

static int parse_net(struct net_config *net, const char *text, struct error *err)
{
    const char *at = NULL;
    for (size_t i = 0; i < sizeof(net_words) / sizeof(net_words[0]) && !at; i++) {
        size_t length = strlen(net_words[i].word);
        if (strncmp(text, net_words[i].word, length) != 0)
            continue;
        at = text + length;
        net->kind = net_words[i].kind;
        size_t value = strcspn(at, ",");
        if (!net_words[i].has_value && value > 0)
            at = NULL; // a longer word
        else if (net_words[i].has_value && !value)
            return error_set(err, EINVAL, "%s", net_words[i].lacks);
        else if (net_words[i].has_value && !(net->interface = strndup(at, value)))
            return error_set(err, ENOMEM, "out of memory");
        else
            at += value;
    }
    if (!at)
        return error_set(err, EINVAL,
                         "not a network this version knows (tap=INTERFACE, user, socket=PATH or "
                         "none)");
    if (!*at)
        return 0;
    char *options = strdup(at + 1);
    int r = options ? set_net_options(net, options, err) : error_set(err, ENOMEM, "out of memory");
    free(options);
    if (r == 0 && net->kind == NET_NONE)
        r = error_set(err, EINVAL, "none can be told nothing");
    return r;
}

int machine_config_add_net(struct machine_config *config, const char *text, struct error *err)
{
    struct net_config net = {.number = NUMBER_ANY, .queues = 1};
    int r = parse_net(&net, text, err);
    if (r) {
        config_free_net(&net);
        return error_prefix(err, "net '%s'", text);
    }
    return config_add_net(config, &net, err);
}

static int parse_cid(const char *text, uint32_t *cid, struct error *err)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);
    if (*end || end == text || *text == '-' || n < VIRTIO_VSOCK_GUEST_CID_MIN || n >= UINT32_MAX)
        return error_set(err, EINVAL, "cid: '%s' is not a number from %d to 4294967294", text,
                         VIRTIO_VSOCK_GUEST_CID_MIN);
    *cid = (uint32_t)n;
    return 0;
}

int machine_config_set_vsock(struct machine_config *config, const char *text, struct error *err)
{
    static const char path_key[] = ",socket=";
    const char *path = strstr(text, path_key);
    if (strncmp(text, "cid=", 4) != 0 || !path || !path[sizeof(path_key) - 1])
        return error_set(err, EINVAL, "vsock '%s': must be cid=NUMBER,socket=PATH", text);
    char *number = strndup(text + 4, (size_t)(path - text) - 4);
    char *copy = strdup(path + sizeof(path_key) - 1);
    int r = number && copy ? parse_cid(number, &config->vsock.cid, err)
                           : error_set(err, ENOMEM, "out of memory");
    free(number);
    if (r) {
        free(copy);
        return error_prefix(err, "vsock '%s'", text);
    }
    free(config->vsock.socket);
    config->vsock.socket = copy;
    return 0;
}
