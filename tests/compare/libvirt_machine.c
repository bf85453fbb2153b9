// libvirt_machine: QEMU as a peer, driven through libvirt's C API (docs/benchmarks.md).
//
//   libvirt_machine start CONNECTION XML-FILE
//   libvirt_machine move CONNECTION NAME TARGET-CONNECTION MIGRATION-URI [OPTION=VALUE]...
//   libvirt_machine end CONNECTION NAME
//
// `move` prints one JSON object of what libvirt measured, with `call_ms`, the whole call, and
// `qemu_ms`, from QEMU's first to its last word of the migration: the call has the start of the
// target's QEMU in it as well. Its options are streams=N (more than one: VIR_MIGRATE_PARALLEL),
// downtime_ms=N, bandwidth_mib=N (MiB/s, 0: as much as goes), converge=1
// (VIR_MIGRATE_AUTO_CONVERGE), tls=1 (QEMU's own TLS, certificates as the daemons have them) and
// tls_name=NAME. The client talks to both daemons itself, so they need no way to each other.
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { XML_LIMIT = 64 << 10, LOOK_MS = 100 };

struct move_options {
    unsigned long long streams, converge, tls, downtime_ms, bandwidth_mib;
    const char *tls_name; // whom the target's certificate must name
};

// When QEMU said so, by its own clock.
struct qemu_times {
    uint64_t began_us, ended_us;
    pthread_t thread;
    atomic_bool ending;
};

static int failed(const char *what)
{
    const char *why = virGetLastErrorMessage();
    fprintf(stderr, "libvirt_machine: %s: %s\n", what, why ? why : strerror(errno));
    return 1;
}

// libvirt prints each error by itself otherwise, before failed() does.
static void keep_silent(void *opaque, virErrorPtr error)
{
    (void)opaque;
    (void)error;
}

static char *read_file(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = file ? calloc(1, XML_LIMIT) : NULL;
    if (text && fread(text, 1, XML_LIMIT - 1, file) == 0) {
        free(text);
        text = NULL;
    }
    if (file)
        fclose(file);
    return text;
}

static int start(const char *connection, const char *path)
{
    char *xml = read_file(path);
    if (!xml)
        return failed(path);
    virConnectPtr host = virConnectOpen(connection);
    virDomainPtr domain = host ? virDomainDefineXML(host, xml) : NULL;
    int rc = !domain                       ? failed("defining the domain")
             : virDomainCreate(domain) < 0 ? failed("starting the domain")
                                           : 0;
    if (domain)
        virDomainFree(domain);
    if (host)
        virConnectClose(host);
    free(xml);
    return rc;
}

static int end(const char *connection, const char *name)
{
    virConnectPtr host = virConnectOpen(connection);
    virDomainPtr domain = host ? virDomainLookupByName(host, name) : NULL;
    int rc = !domain ? failed("finding the domain") : 0;
    if (domain && virDomainIsActive(domain) == 1 && virDomainDestroy(domain) < 0)
        rc = failed("ending the domain");
    if (domain && virDomainIsPersistent(domain) == 1 && virDomainUndefine(domain) < 0)
        rc = failed("forgetting the domain");
    if (domain)
        virDomainFree(domain);
    if (host)
        virConnectClose(host);
    return rc;
}

// ---- move ----

static int parse_option(struct move_options *options, const char *text)
{
    const struct {
        const char *name;
        unsigned long long *value;
    } numbers[] = {
        {"streams=", &options->streams},
        {"converge=", &options->converge},
        {"downtime_ms=", &options->downtime_ms},
        {"bandwidth_mib=", &options->bandwidth_mib},
        {"tls=", &options->tls},
    };
    if (strncmp(text, "tls_name=", 9) == 0) {
        options->tls_name = text + 9;
        return 0;
    }
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        size_t length = strlen(numbers[i].name);
        char *rest;
        if (strncmp(text, numbers[i].name, length) != 0)
            continue;
        *numbers[i].value = strtoull(text + length, &rest, 10);
        return *rest || rest == text + length ? -EINVAL : 0;
    }
    return -EINVAL;
}

// ---- QEMU's own words ----

static void on_migration(virConnectPtr host, virDomainPtr domain, const char *event,
                         long long seconds, unsigned micros, const char *details, void *opaque)
{
    struct qemu_times *times = opaque;
    uint64_t now_us = (uint64_t)seconds * 1000000 + micros;
    (void)host;
    (void)domain;
    (void)event;
    if (!times->began_us)
        times->began_us = now_us;
    if (details && strstr(details, "completed"))
        times->ended_us = now_us;
}

static void on_look(int timer, void *opaque)
{
    (void)timer;
    (void)opaque;
}

static void *events_main(void *opaque)
{
    struct qemu_times *times = opaque;
    while (!atomic_load(&times->ending))
        virEventRunDefaultImpl();
    return NULL;
}

static void times_start(struct qemu_times *times, virConnectPtr host)
{
    // The timer is there so that the loop looks whether it shall end.
    virEventAddTimeout(LOOK_MS, on_look, NULL, NULL);
    virConnectDomainQemuMonitorEventRegister(host, NULL, "MIGRATION", on_migration, times, NULL, 0);
    if (pthread_create(&times->thread, NULL, events_main, times) != 0)
        abort();
}

static void times_stop(struct qemu_times *times)
{
    atomic_store(&times->ending, true);
    pthread_join(times->thread, NULL);
}

static virDomainPtr migrate(virDomainPtr domain, virConnectPtr target, const char *uri,
                            const struct move_options *options)
{
    virTypedParameterPtr params = NULL;
    int count = 0, room = 0, rc;
    unsigned flags = VIR_MIGRATE_LIVE;
    rc = virTypedParamsAddString(&params, &count, &room, VIR_MIGRATE_PARAM_URI, uri);
    if (options->streams > 1) {
        flags |= VIR_MIGRATE_PARALLEL;
        rc |= virTypedParamsAddInt(&params, &count, &room, VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS,
                                   (int)options->streams);
    }
    if (options->bandwidth_mib)
        rc |= virTypedParamsAddULLong(&params, &count, &room, VIR_MIGRATE_PARAM_BANDWIDTH,
                                      options->bandwidth_mib);
    if (options->converge)
        flags |= VIR_MIGRATE_AUTO_CONVERGE;
    if (options->tls)
        flags |= VIR_MIGRATE_TLS;
    if (options->tls_name)
        rc |= virTypedParamsAddString(&params, &count, &room, VIR_MIGRATE_PARAM_TLS_DESTINATION,
                                      options->tls_name);
    virDomainPtr moved =
        rc < 0 ? NULL : virDomainMigrate3(domain, target, params, (unsigned)count, flags);
    virTypedParamsFree(params, count);
    return moved;
}

// What QEMU counted, by the name libvirt gives it; left out where it gives none.
static void add_figure(json_t *result, virTypedParameterPtr stats, int count, const char *name)
{
    unsigned long long value;
    if (virTypedParamsGetULLong(stats, count, name, &value) == 1)
        json_object_set_new(result, name, json_integer((json_int_t)value));
}

static int print_figures(virDomainPtr domain, uint64_t elapsed_ns, const struct qemu_times *times)
{
    static const char *const names[] = {
        VIR_DOMAIN_JOB_TIME_ELAPSED,     VIR_DOMAIN_JOB_DOWNTIME,
        VIR_DOMAIN_JOB_SETUP_TIME,       VIR_DOMAIN_JOB_DATA_PROCESSED,
        VIR_DOMAIN_JOB_MEMORY_PROCESSED, VIR_DOMAIN_JOB_MEMORY_NORMAL_BYTES,
        VIR_DOMAIN_JOB_MEMORY_ITERATION,
    };
    virTypedParameterPtr stats = NULL;
    int type, count = 0;
    if (virDomainGetJobStats(domain, &type, &stats, &count, VIR_DOMAIN_JOB_STATS_COMPLETED) < 0)
        return failed("asking what the migration took");
    json_t *result = json_object();
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        add_figure(result, stats, count, names[i]);
    int throttle;
    if (virTypedParamsGetInt(stats, count, VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE, &throttle) == 1)
        json_object_set_new(result, VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE, json_integer(throttle));
    json_object_set_new(result, "call_ms", json_real((double)elapsed_ns / (double)NSEC_PER_MSEC));
    if (times->began_us && times->ended_us)
        json_object_set_new(result, "qemu_ms",
                            json_real((double)(times->ended_us - times->began_us) / 1000));
    virTypedParamsFree(stats, count);
    json_dumpf(result, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(result);
    return 0;
}

static int move(char **argv, int option_count)
{
    struct move_options options = {.streams = 1};
    for (int i = 0; i < option_count; i++)
        if (parse_option(&options, argv[4 + i]) < 0) {
            fprintf(stderr, "libvirt_machine: '%s' is no option of a move\n", argv[4 + i]);
            return 2;
        }
    struct qemu_times times = {0};
    virConnectPtr host = virConnectOpen(argv[0]), target = virConnectOpen(argv[2]);
    virDomainPtr domain = host && target ? virDomainLookupByName(host, argv[1]) : NULL,
                 moved = NULL;
    if (!domain)
        return failed("finding the domain");
    times_start(&times, host);
    uint64_t began = clock_monotonic_ns(), ended = 0;
    if (!options.downtime_ms || virDomainMigrateSetMaxDowntime(domain, options.downtime_ms, 0) == 0)
        moved = migrate(domain, target, argv[3], &options);
    int rc = moved ? 0 : failed("migrating");
    ended = clock_monotonic_ns();
    times_stop(&times);
    if (moved) {
        rc = print_figures(moved, ended - began, &times);
        virDomainFree(moved);
    }
    virDomainFree(domain);
    virConnectClose(target);
    virConnectClose(host);
    return rc;
}

int main(int argc, char **argv)
{
    virSetErrorFunc(NULL, keep_silent);
    if (virEventRegisterDefaultImpl() < 0)
        return failed("preparing");
    if (argc == 4 && strcmp(argv[1], "start") == 0)
        return start(argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "end") == 0)
        return end(argv[2], argv[3]);
    if (argc >= 6 && strcmp(argv[1], "move") == 0)
        return move(argv + 2, argc - 6);
    fprintf(stderr, "usage: libvirt_machine start CONNECTION XML-FILE\n"
                    "       libvirt_machine move CONNECTION NAME TARGET-CONNECTION MIGRATION-URI "
                    "[OPTION=VALUE]...\n"
                    "       libvirt_machine end CONNECTION NAME\n");
    return 2;
}
