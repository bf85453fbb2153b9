// What the three files of a machine's description share: its parts and checks (machine_config.c),
// as options (machine_config_options.c), as JSON (machine_config_json.c).
#pragma once

#include <limits.h>

#include "vmm/machine_config.h"

enum { NUMBER_ANY = UINT_MAX, NUMBER_LIMIT = 100, SLOT_LIMIT = 32 };

extern const char *const config_disk_cache_names[]; // by enum block_cache, ended by NULL

// Index of a name in a list ended by NULL; -1 when it isn't there.
int config_find_name(const char *const *names, const char *text, size_t length);
void config_clear_disks(struct machine_config *config);
void config_clear_nets(struct machine_config *config);
void config_free_net(struct net_config *net);
// They take the disk or network with its strings over, also on failure; NUMBER_ANY as its number
// becomes the lowest free one.
int config_add_disk(struct machine_config *config, const struct disk_config *disk,
                    struct error *err);
int config_add_net(struct machine_config *config, struct net_config *net, struct error *err);
int config_parse_mac(const char *text, uint8_t mac[6], struct error *err);
// A forward of passt's, "tcp" or "udp", behind those that are there.
int config_add_forward(struct net_config *net, const char *protocol, const char *spec,
                       struct error *err);
// The address that the network's card will have.
void config_net_mac(const struct machine_config *config, unsigned index, uint8_t mac[6]);
