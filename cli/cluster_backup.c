// ferry cluster backup
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/runtime_dir.h"
#include "cli/cluster.h"
#include "cli/daemon_access.h"
#include "cli/output.h"
#include "cli/whole_file.h"
#include "cluster/store/backup.h"
#include "cluster/store/store_admin.h"

enum { LOOK_AGAIN_NS = 100 * 1000 * 1000 };

static int backup(int argc, char **argv);
static const struct option_spec options[] = {OPTIONS_FORMAT, OPTIONS_RUNTIME_DIR, {0}};
const struct subcommand cluster_backup = {
    .name = "cluster backup",
    .arguments = "FILE",
    .summary = "saves what the cluster knows to a file",
    .details = "All that was committed before it was asked for is in it: hosts, machines, "
               "settings. No disks, "
               "no memory\nof machines, and not the key of the cluster's CA.",
    .options = options,
    .least = 1,
    .most = 1,
    .run = backup,
};

// This host's own member, by its socket: what it has is what all agreed on, if it isn't behind.
static int open_member(const char *runtime_dir, struct store_client **client, struct error *err)
{
    struct runtime_dir dir;
    char address[PATH_MAX + 32];
    int r = runtime_dir_open(&dir, runtime_dir, err);
    if (r)
        return r;
    snprintf(address, sizeof(address), "unix:%s/.store.sock", dir.path);
    runtime_dir_close(&dir);
    r = store_client_create(client, address, err);
    if (!r)
        store_client_set_sticky(*client, true);
    return r;
}

static int member_revision(struct store_client *client, uint64_t *revision, struct error *err)
{
    struct byte_reader answer;
    enum store_status status = store_client_request(client, REQUEST_STATUS, NULL, 0, &answer, err);
    if (status != STORE_OK)
        return err->code ? -err->code
                         : error_set(err, EAGAIN, "store: %s", store_status_text(status));
    json_t *object = store_admin_json(&answer, err);
    if (!object)
        return -err->code;
    *revision = output_number_of(object, "revision");
    json_decref(object);
    *err = (struct error){0};
    return 0;
}

static int await_revision(struct store_client *client, uint64_t wanted, struct error *err)
{
    uint64_t limit = clock_monotonic_ns() + 30 * NSEC_PER_SEC, revision = 0;
    for (;;) {
        int r = member_revision(client, &revision, err);
        if (r || revision >= wanted)
            return r;
        if (clock_monotonic_ns() > limit)
            return error_set(err, ETIMEDOUT, "this host's member is behind: try on another host");
        nanosleep(&(struct timespec){.tv_nsec = LOOK_AGAIN_NS}, NULL);
    }
}

static int write_backup(struct store_client *client, const char *path, struct error *err)
{
    struct backup_writer writer;
    struct whole_file file;
    int r = whole_file_open(&file, path, err);
    if (r)
        return r;
    r = backup_begin(&writer, file.stream);
    if (!r) {
        r = store_admin_snapshot(client, backup_piece, &writer, err);
        if (writer.error || !r) // what is in `err` is about the store
            *err = (struct error){0};
    }
    if (!r)
        r = backup_end(&writer);
    if (r && !err->code)
        error_set_errno(err, -r, "'%s' can't be written", path);
    return whole_file_end(&file, r, err);
}

static int backup(int argc, char **argv)
{
    struct common_options o = {0};
    struct error err = {0};
    char **arguments;
    json_t *status_now = NULL;
    struct store_client *client = NULL;
    int status = options_parse(&cluster_backup, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    int r = daemon_call(&o, "cluster.status", NULL, &status_now, &err);
    if (!r)
        r = open_member(o.runtime_dir, &client, &err);
    if (!r)
        r = await_revision(client, output_number_of(status_now, "revision"), &err);
    if (!r)
        r = write_backup(client, arguments[0], &err);
    store_client_destroy(client);
    json_decref(status_now);
    return r ? daemon_fail(&cluster_backup, &err) : STATUS_OK;
}
