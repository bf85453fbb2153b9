#include "vmm/machine_config.h"

#include <inttypes.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "devices/block/block_nbd.h"
#include "devices/net/net_mac.h"
#include "devices/virtio/virtio_vsock.h"
#include "vmm/layout.h"
#include "vmm/machine_config_internal.h"
#include "vmm/machine_limits.h"

// The command line's place below 1 MiB is 64 KiB with its terminating zero (vmm/layout.h).
// A vsock's path gets "_PORT" behind it, and must still be a socket's.
enum { APPEND_LIMIT = 65535, SOCKET_PATH_LIMIT = 96 };
#define MEMORY_LIMIT (UINT64_C(1) << 46) // the physical address width that CPUs commonly have

const char *const config_disk_cache_names[] = {[BLOCK_CACHE_WRITEBACK] = "writeback",
                                               [BLOCK_CACHE_NONE] = "none",
                                               [BLOCK_CACHE_UNSAFE] = "unsafe",
                                               NULL};

// Index of a name in a list ended by NULL; -1 when it isn't there.
int config_find_name(const char *const *names, const char *text, size_t length)
{
    for (int i = 0; names[i]; i++)
        if (strlen(names[i]) == length && memcmp(names[i], text, length) == 0)
            return i;
    return -1;
}

int machine_config_init(struct machine_config *config)
{
    *config = (struct machine_config){
        .cpus = 1,
        .memory = UINT64_C(512) << 20,
        .virtio_console = true,
        .rng = true,
        .on_reboot = ON_REBOOT_RESTART,
        .on_triple_fault = ON_TRIPLE_FAULT_CRASH,
        .append = strdup(""),
        .cpu_model = strdup("host"),
    };
    if (!config->append || !config->cpu_model) {
        machine_config_free(config);
        return -ENOMEM;
    }
    return 0;
}

void config_clear_disks(struct machine_config *config)
{
    for (unsigned i = 0; i < config->disk_count; i++)
        free(config->disks[i].path);
    config->disk_count = 0;
}

void config_free_net(struct net_config *net)
{
    free(net->interface);
    free(net->forwards);
    *net = (struct net_config){.kind = NET_NONE};
}

void config_clear_nets(struct machine_config *config)
{
    for (unsigned i = 0; i < config->net_count; i++)
        config_free_net(&config->nets[i]);
    config->net_count = 0;
}

void machine_config_remove_disk(struct machine_config *config, unsigned index)
{
    free(config->disks[index].path);
    config->disk_count--;
    memmove(&config->disks[index], &config->disks[index + 1],
            (config->disk_count - index) * sizeof(config->disks[0]));
}

void machine_config_remove_net(struct machine_config *config, unsigned index)
{
    config_free_net(&config->nets[index]);
    config->net_count--;
    memmove(&config->nets[index], &config->nets[index + 1],
            (config->net_count - index) * sizeof(config->nets[0]));
}

void machine_config_free(struct machine_config *config)
{
    config_clear_disks(config);
    config_clear_nets(config);
    free(config->kernel);
    free(config->initrd);
    free(config->append);
    free(config->cpu_model);
    free(config->vsock.socket);
    *config = (struct machine_config){0};
}

// ---- disks and networks ----

static bool disk_number_is_free(const struct machine_config *config, unsigned number)
{
    for (unsigned i = 0; i < config->disk_count; i++)
        if (config->disks[i].number == number)
            return false;
    return true;
}

static bool net_number_is_free(const struct machine_config *config, unsigned number)
{
    for (unsigned i = 0; i < config->net_count; i++)
        if (config->nets[i].number == number)
            return false;
    return true;
}

// Takes `disk` with its strings over, also on failure.
int config_add_disk(struct machine_config *config, const struct disk_config *disk,
                    struct error *err)
{
    if (!disk->path)
        return error_set(err, ENOMEM, "out of memory");
    if (config->disk_count == MACHINE_DISKS_LIMIT) {
        free(disk->path);
        return error_set(err, EINVAL, "more than %d disks", MACHINE_DISKS_LIMIT);
    }
    struct disk_config *added = &config->disks[config->disk_count];
    *added = *disk;
    if (added->number == NUMBER_ANY)
        for (added->number = 0; !disk_number_is_free(config, added->number);)
            added->number++;
    if (!disk_number_is_free(config, added->number)) {
        free(disk->path);
        return error_set(err, EINVAL, "the id 'disk%u' is given twice", added->number);
    }
    config->disk_count++;
    return 0;
}

// Takes `net` with its strings over, also on failure.
int config_add_net(struct machine_config *config, struct net_config *net, struct error *err)
{
    int r = 0;
    if ((net->kind == NET_TAP || net->kind == NET_SOCKET) && !net->interface)
        r = error_set(err, ENOMEM, "out of memory");
    else if (config->net_count == MACHINE_NETS_LIMIT)
        r = error_set(err, EINVAL, "more than %d networks", MACHINE_NETS_LIMIT);
    if (r == 0 && net->number == NUMBER_ANY)
        for (net->number = 0; !net_number_is_free(config, net->number);)
            net->number++;
    if (r == 0 && !net_number_is_free(config, net->number))
        r = error_set(err, EINVAL, "the id 'net%u' is given twice", net->number);
    if (r == 0)
        config->nets[config->net_count++] = *net;
    else
        config_free_net(net);
    return r;
}

// The address that the network's card will have.
void config_net_mac(const struct machine_config *config, unsigned index, uint8_t mac[6])
{
    static const uint8_t derived[6];
    if (memcmp(config->nets[index].mac, derived, 6) == 0)
        net_mac_derive(config->name, config->nets[index].number, mac);
    else
        memcpy(mac, config->nets[index].mac, 6);
}

// ---- check ----

static int check_disks(const struct machine_config *config, struct error *err)
{
    for (unsigned i = 0; i < config->disk_count; i++) {
        const struct disk_config *a = &config->disks[i];
        if (!a->path || !*a->path)
            return error_set(err, EINVAL, "disk %u has no path", i);
        struct block_nbd_place place;
        if (block_nbd_is_address(a->path) && block_nbd_parse(a->path, &place, err) < 0)
            return -EINVAL;
        for (unsigned j = 0; j < i; j++) {
            const struct disk_config *b = &config->disks[j];
            if (strcmp(a->path, b->path) == 0 && !(a->read_only && b->read_only))
                return error_set(
                    err, EINVAL,
                    "disk '%s' is given twice: only a read-only disk can be (add ',ro' "
                    "to both)",
                    a->path);
        }
    }
    return 0;
}

static int check_nets(const struct machine_config *config, struct error *err)
{
    for (unsigned i = 0; i < config->net_count; i++) {
        const struct net_config *a = &config->nets[i];
        if (a->kind == NET_NONE && config->net_count > 1)
            return error_set(err, EINVAL, "net 'none' means no network, so it stands alone");
        if (a->kind == NET_NONE)
            continue;
        if (a->kind == NET_TAP &&
            (!a->interface || !*a->interface || strlen(a->interface) >= IFNAMSIZ ||
             strpbrk(a->interface, "/ \t\n")))
            return error_set(err, EINVAL, "'%s' is not the name of a network interface",
                             a->interface ? a->interface : "");
        if (a->kind == NET_SOCKET && strlen(a->interface) > SOCKET_PATH_LIMIT)
            return error_set(err, EINVAL, "a network socket's path is longer than %d bytes",
                             SOCKET_PATH_LIMIT);
        uint8_t mac[6], other[6];
        config_net_mac(config, i, mac);
        for (unsigned j = 0; j < i; j++) {
            config_net_mac(config, j, other);
            const struct net_config *b = &config->nets[j];
            if (a->kind == NET_TAP && b->kind == NET_TAP && strcmp(a->interface, b->interface) == 0)
                return error_set(err, EINVAL, "tap '%s' is given twice", a->interface);
            if (memcmp(mac, other, 6) == 0)
                return error_set(err, EINVAL, "networks %u and %u have the same address", j, i);
        }
    }
    return 0;
}

int machine_config_check(const struct machine_config *config, struct error *err)
{
    if (!name_is_valid(config->name))
        return error_set(err, EINVAL, "'%s' is not a machine name ([a-z0-9][a-z0-9._-]{0,39})",
                         config->name);
    if (!config->kernel || !*config->kernel)
        return error_set(err, EINVAL, "no kernel given: say --kernel FILE");
    if (config->initrd && !*config->initrd)
        return error_set(err, EINVAL, "the initrd's path is empty");
    if (config->cpus < 1 || config->cpus > MACHINE_CPUS_LIMIT)
        return error_set(err, EINVAL, "%u CPUs: a machine has 1 to %d", config->cpus,
                         MACHINE_CPUS_LIMIT);
    char size[32];
    if (config->memory < LAYOUT_RAM_MINIMUM || config->memory > MEMORY_LIMIT)
        return error_set(err, EINVAL, "%s of memory: a machine has 16 MiB to 64 TiB",
                         units_format_size(config->memory, size, sizeof(size)));
    if (config->memory % 4096)
        return error_set(err, EINVAL,
                         "%" PRIu64 " bytes of memory are not whole pages (multiples of 4096)",
                         config->memory);
    if (strlen(config->append) > APPEND_LIMIT)
        return error_set(err, EINVAL, "the kernel's command line is longer than %d bytes",
                         APPEND_LIMIT);
    if (!*config->cpu_model)
        return error_set(err, EINVAL, "the CPU model's name is empty: 'host' is the default");
    if (config->vsock.socket && strlen(config->vsock.socket) > SOCKET_PATH_LIMIT)
        return error_set(err, EINVAL, "the vsock's path is longer than %d bytes",
                         SOCKET_PATH_LIMIT);
    if (cpu_settings_check(&config->cpu_time, config->cpus, err) != 0)
        return -EINVAL;
    int r = check_disks(config, err);
    return r ? r : check_nets(config, err);
}
