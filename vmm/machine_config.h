// The description of a machine: what `ferry run` makes from its options, what --config reads, what
// `ferry inspect` prints. Strings are owned by the struct.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/ids.h"
#include "devices/block/block_backend.h"
#include "devices/rate_limiter.h"
#include "vmm/sched/cpu_settings.h"

enum {
    MACHINE_CPUS_LIMIT = 64,
    MACHINE_DISKS_LIMIT = 16,
    MACHINE_NETS_LIMIT = 8,
    MACHINE_NET_QUEUES_LIMIT = 8, // queue pairs of one card
};

// Disks and networks keep their number, which is in their id ("disk0") and makes their derived
// address, and once something was plugged in or out also their slot: both decide what a guest sees
// of them.
struct disk_config {
    unsigned number; // no other disk has it
    unsigned slot;   // PCI; 0 = the lowest free one
    char *path;
    bool read_only;
    enum block_cache cache;
    struct rate_limits limits;
};

// NET_NONE: no network at all; it stands alone.
// NET_USER: through passt, without a right. NET_SOCKET: to another machine, or whoever speaks its
// format.
enum net_kind { NET_TAP, NET_NONE, NET_USER, NET_SOCKET };

struct net_config {
    unsigned number; // no other network has it
    unsigned slot;
    enum net_kind kind;
    char *interface;           // of a tap; the path of a socket
    char *forwards;            // of user: "tcp=8080:80,udp=53", or NULL for none
    bool listens;              // of a socket: the other end connects
    unsigned queues;           // of a tap: queue pairs of the card
    struct rate_limits limits; // of each direction
    uint8_t mac[6];            // all zero: derived from the machine's name and the number
};

// Connections between guest and host (virtio-vsock); the socket's path is NULL for none.
struct vsock_config {
    uint32_t cid;
    char *socket;
};

enum on_reboot { ON_REBOOT_RESTART, ON_REBOOT_EXIT };
// What happens when the guest's kernel says that it has panicked.
enum on_panic { ON_PANIC_CRASH, ON_PANIC_RESET, ON_PANIC_PAUSE, ON_PANIC_IGNORE };
enum on_triple_fault { ON_TRIPLE_FAULT_CRASH, ON_TRIPLE_FAULT_RESET };
// Their names by value, each list ended by NULL.
extern const char *const machine_on_reboot_names[];
extern const char *const machine_on_panic_names[];
extern const char *const machine_on_triple_fault_names[];

struct machine_config {
    char name[NAME_LIMIT + 1];
    struct uuid uuid;
    char *kernel;
    char *initrd; // NULL for none
    char *append; // "" for none
    unsigned cpus;
    uint64_t memory; // bytes
    char *cpu_model; // "host", "x86-64-v2", ... with ",+feature,-feature" behind
    struct cpu_settings cpu_time;
    struct disk_config disks[MACHINE_DISKS_LIMIT];
    unsigned disk_count;
    struct net_config nets[MACHINE_NETS_LIMIT];
    unsigned net_count;
    bool virtio_console; // a virtio console beside the serial port
    bool rng;
    bool balloon;
    struct vsock_config vsock;
    enum on_reboot on_reboot;
    enum on_triple_fault on_triple_fault;
    enum on_panic on_panic;
    bool debug_exit;
    bool force; // run a stock image although this KVM emulates ring 0
};

// Defaults: 1 CPU, 512 MiB, cpu "host", console and rng present, restart on reboot, crash on triple
// fault and panic. 0 or -ENOMEM.
int machine_config_init(struct machine_config *config);
void machine_config_free(struct machine_config *config);
// Everything that can be said without opening a file: ranges, names, duplicates. 0 or a sentence.
int machine_config_check(const struct machine_config *config, struct error *err);
// A new JSON object, or NULL without memory.
json_t *machine_config_to_json(const struct machine_config *config);
// Overlays what the object has onto *config; an unknown key or wrong type is an error that names
// it.
int machine_config_from_json(struct machine_config *config, const json_t *object,
                             struct error *err);
// The same with what a file holds; the error names the file and, where it isn't JSON, the line.
int machine_config_from_file(struct machine_config *config, const char *path, struct error *err);

// Sets what a --vsock option says: cid=N,socket=PATH.
int machine_config_set_vsock(struct machine_config *config, const char *text, struct error *err);

// Takes one away; those behind it move up.
void machine_config_remove_disk(struct machine_config *config, unsigned index);
void machine_config_remove_net(struct machine_config *config, unsigned index);
// Adds a disk (network) as an element of the arrays in JSON has it.
int machine_config_add_disk_json(struct machine_config *config, json_t *object, struct error *err);
int machine_config_add_net_json(struct machine_config *config, json_t *object, struct error *err);
// As such an element: a new object.
json_t *machine_config_disk_json(const struct machine_config *config, unsigned index);
json_t *machine_config_net_json(const struct machine_config *config, unsigned index);

// What a --cpus option says: 1 to MACHINE_CPUS_LIMIT.
int machine_config_parse_cpus(const char *text, unsigned *cpus, struct error *err);
// Adds what a --disk option says: PATH[,ro][,cache=writeback|none|unsafe]. A comma in the path is
// written twice.
int machine_config_add_disk(struct machine_config *config, const char *text, struct error *err);
// Adds what a --net option says: tap=INTERFACE[,queues=N], user[,tcp=SPEC][,udp=SPEC]...,
// socket=PATH[,listen], each with [,mac=XX:XX:XX:XX:XX:XX] and limits as a disk; or none.
int machine_config_add_net(struct machine_config *config, const char *text, struct error *err);
