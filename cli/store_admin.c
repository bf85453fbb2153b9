// ferry store status, members, move-leader, snapshot, restore, check
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/ids.h"
#include "cli/output.h"
#include "cli/store.h"
#include "cli/whole_file.h"
#include "cluster/member/member.h"
#include "cluster/store/store_admin.h"
#include "cluster/wal/wal.h"

static const struct option_spec plain_options[] = {STORE_OPTIONS};

static int print_json(const struct store_options *o, json_t *object)
{
    if (!object)
        return STATUS_FAILED;
    if (o->common.format == OUTPUT_JSON)
        output_json(object);
    else
        output_flat(object);
    json_decref(object);
    return STATUS_OK;
}

static int status_main(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    char **arguments;
    int status = store_begin(&store_status, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    store_client_set_sticky(client, true);
    status = print_json(&o, store_ask_json(&store_status, client, REQUEST_STATUS));
    store_client_destroy(client);
    return status;
}

const struct subcommand store_status = {
    .name = "store status",
    .arguments = "",
    .summary = "what one member says of itself",
    .options = plain_options,
    .run = status_main,
};

// --- Members
// ----------------------------------------------------------------------------------------

static int list_members(const struct store_options *o, struct store_client *client)
{
    struct error err = {0};
    struct store_members list;
    if (o->common.format == OUTPUT_JSON)
        return print_json(o, store_ask_json(&store_members, client, REQUEST_MEMBERS));
    enum store_status status = store_admin_members(client, &list, &err);
    if (status != STORE_OK)
        return store_fail_status(&store_members, status, 0, &err);
    printf("%-18s %-16s %-8s %-24s %-24s %s\n", "ID", "NAME", "ROLE", "PEERS", "CLIENTS", "STORED");
    for (unsigned i = 0; i < list.count; i++) {
        const struct store_member *m = &list.members[i];
        printf("%016" PRIx64 "   %-16s %-8s %-24s %-24s %" PRIu64 "\n", m->id, m->name, m->role,
               m->peer, m->client, m->stored);
    }
    return STATUS_OK;
}

static int make_token(const struct store_options *o, struct store_client *client)
{
    struct error err = {0};
    char token[STORE_TOKEN_SIZE];
    enum store_status status = store_admin_token(client, o->ttl / NSEC_PER_SEC, o->ca, token, &err);
    if (status != STORE_OK)
        return store_fail_status(&store_members, status, 0, &err);
    printf("%s\n", token);
    return STATUS_OK;
}

// By id or by name, as `ferry store members` shows them; 0 if there is none or more than one.
static uint64_t find_member(const struct store_members *list, const char *what)
{
    uint64_t found = 0;
    for (unsigned i = 0; i < list->count; i++) {
        char id[17];
        snprintf(id, sizeof(id), "%016" PRIx64, list->members[i].id);
        if (strcmp(id, what) == 0)
            return list->members[i].id;
        if (strcmp(list->members[i].name, what) == 0) {
            if (found)
                return 0;
            found = list->members[i].id;
        }
    }
    return found;
}

static int find_members(const struct subcommand *command, struct store_client *client, char **names,
                        unsigned count, uint64_t *ids)
{
    struct error err = {0};
    struct store_members list;
    enum store_status status = store_admin_members(client, &list, &err);
    if (status != STORE_OK)
        return store_fail_status(command, status, 0, &err);
    for (unsigned i = 0; i < count; i++) {
        ids[i] = find_member(&list, names[i]);
        if (!ids[i]) {
            error_set(&err, ENOENT, "'%s': no such member, or several of that name (give its id)",
                      names[i]);
            return store_fail(command, &err);
        }
    }
    return STATUS_OK;
}

static int remove_members(struct store_client *client, char **names)
{
    struct error err = {0};
    uint64_t ids[STORE_MEMBERS_MAX];
    unsigned count = 0;
    while (count < STORE_MEMBERS_MAX && names[count])
        count++;
    int status = find_members(&store_members, client, names, count, ids);
    if (status != STATUS_OK)
        return status;
    enum store_status done = store_admin_remove(client, ids, count, &err);
    return done == STORE_OK ? STATUS_OK : store_fail_status(&store_members, done, 0, &err);
}

static int members_main(int argc, char **argv)
{
    struct store_options o = {.ttl = 3600 * NSEC_PER_SEC};
    struct store_client *client;
    char **arguments;
    int status = store_begin(&store_members, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    if (!arguments[0] || strcmp(arguments[0], "list") == 0) {
        status = list_members(&o, client);
    } else if (strcmp(arguments[0], "token") == 0) {
        status = make_token(&o, client);
    } else if (strcmp(arguments[0], "remove") == 0 && arguments[1]) {
        status = remove_members(client, arguments + 1);
    } else {
        options_print_help(&store_members);
        status = STATUS_USAGE;
    }
    store_client_destroy(client);
    return status;
}

static const struct option_spec members_options[] = {
    {.name = "ttl",
     .kind = OPTION_DURATION,
     .offset = offsetof(struct store_options, ttl),
     .argument = "TIME",
     .help = "token: how long it can be used (1h)"},
    STORE_OPTIONS,
};

const struct subcommand store_members = {
    .name = "store members",
    .arguments = "[list | token | remove MEMBER...]",
    .summary = "lists members, makes tokens to join with, removes members",
    .details =
        "A token admits one member: ferryd --join TOKEN@HOST:PORT. It becomes a voter when it "
        "has caught up.\nSeveral members are removed in one step.",
    .options = members_options,
    .most = 2 + RAFT_MEMBERS_MAX,
    .run = members_main,
};

static int move_leader(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    struct error err = {0};
    char **arguments;
    uint64_t id = 0;
    int status = store_begin(&store_move_leader, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    status = find_members(&store_move_leader, client, arguments, 1, &id);
    if (status == STATUS_OK) {
        enum store_status done = store_admin_move_leader(client, id, &err);
        if (done != STORE_OK)
            status = store_fail_status(&store_move_leader, done, 0, &err);
    }
    store_client_destroy(client);
    return status;
}

const struct subcommand store_move_leader = {
    .name = "store move-leader",
    .arguments = "MEMBER",
    .summary = "hands leadership to that member",
    .options = plain_options,
    .least = 1,
    .most = 1,
    .run = move_leader,
};

// --- Snapshots
// --------------------------------------------------------------------------------------

static int write_piece(void *context, const void *bytes, size_t length)
{
    return fwrite(bytes, 1, length, context) == length ? 0 : -errno;
}

static int snapshot_main(int argc, char **argv)
{
    struct store_options o = {0};
    struct store_client *client;
    struct error err = {0};
    struct whole_file file;
    char **arguments;
    int status = store_begin(&store_snapshot, argc, argv, &o, &arguments, &client);
    if (status != OPTIONS_GO)
        return status;
    store_client_set_sticky(client, true);
    int error = whole_file_open(&file, arguments[0], &err);
    if (!error) {
        error = store_admin_snapshot(client, write_piece, file.stream, &err);
        if (error && !err.code)
            error_set_errno(&err, -error, "'%s' can't be written", file.partial);
        error = whole_file_end(&file, error, &err);
    }
    store_client_destroy(client);
    return error ? store_fail(&store_snapshot, &err) : STATUS_OK;
}

const struct subcommand store_snapshot = {
    .name = "store snapshot",
    .arguments = "FILE",
    .summary = "saves all keys of one member to a file",
    .options = plain_options,
    .least = 1,
    .most = 1,
    .run = snapshot_main,
};

static uint8_t *read_file(const char *path, size_t *length, struct error *err)
{
    struct byte_writer w;
    FILE *in = fopen(path, "rbe");
    if (!in) {
        error_set_errno(err, errno, "'%s' can't be opened", path);
        return NULL;
    }
    byte_writer_init(&w);
    int error = byte_writer_stream(&w, in);
    fclose(in);
    *length = w.length;
    if (error)
        error_set_errno(err, -error, "'%s' can't be read", path);
    else if (w.length == 0)
        error_set(err, EINVAL, "'%s' is empty", path);
    return w.data;
}

static int restore_main(int argc, char **argv)
{
    struct store_options o = {0};
    struct member_record self = {0};
    struct error err = {0};
    char **arguments;
    size_t length;
    int status = options_parse(&store_restore_command, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    if (!o.data || !o.name || !o.peer || !o.client || !name_is_valid(o.name)) {
        options_print_help(&store_restore_command);
        return STATUS_USAGE;
    }
    snprintf(self.name, sizeof(self.name), "%s", o.name);
    snprintf(self.peer, sizeof(self.peer), "%s", o.peer);
    snprintf(self.client, sizeof(self.client), "%s", o.client);
    int error = 0;
    while (!error && !self.id) {
        error = random_bytes(&self.id, sizeof(self.id));
        self.id &= INT64_MAX;
    }
    if (error)
        error_set_errno(&err, -error, "no random numbers");
    uint8_t *bytes = error ? NULL : read_file(arguments[0], &length, &err);
    if (bytes && !err.code)
        member_restore(o.data, &self, bytes, length, NULL, NULL, &err);
    free(bytes);
    return err.code ? store_fail(&store_restore_command, &err) : STATUS_OK;
}

static const struct option_spec restore_options[] = {
    {.name = "data",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct store_options, data),
     .argument = "DIR",
     .help = "the new member's directory"},
    {.name = "name",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct store_options, name),
     .argument = "NAME",
     .help = "the new member's name"},
    {.name = "peer",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct store_options, peer),
     .argument = "HOST:PORT",
     .help = "where other members will reach it"},
    {.name = "client",
     .kind = OPTION_TEXT,
     .offset = offsetof(struct store_options, client),
     .argument = "ADDRESS",
     .help = "where clients will"},
    {0},
};

const struct subcommand store_restore_command = {
    .name = "store restore",
    .arguments = "FILE",
    .summary = "makes a new one-member cluster of a snapshot",
    .details =
        "The keys come back, the members don't: others join the new member. Revisions may be "
        "given out a second time,\nso whoever relied on newer ones must be told.",
    .options = restore_options,
    .least = 1,
    .most = 1,
    .run = restore_main,
};

// --- Checking a directory
// ---------------------------------------------------------------------------

static int check_log(const struct files *files, struct error *err, json_t **report)
{
    struct wal_options options;
    struct wal_status status;
    struct raft_stored stored;
    struct wal_snapshot_reader *reader;
    uint8_t buffer[65536];
    size_t got = 1;
    struct wal *wal;
    wal_options_default(&options, files);
    options.read_only = true;
    int error = wal_open(&wal, &options, err);
    if (error)
        return error;
    wal_storage(wal)->load(wal_storage(wal)->context, &stored);
    wal_inspect(wal, &status);
    error = wal_snapshot_load(wal, stored.snapshot.last, &reader, err);
    for (uint64_t at = 0; !error && got; at += got) {
        error = wal_snapshot_read(reader, at, buffer, sizeof(buffer), &got);
        if (error)
            error_set_errno(err, -error,
                            "snapshot 'snap-%016" PRIx64 "-%016" PRIx64
                            "': damaged near byte %" PRIu64 " of its contents",
                            stored.snapshot.last.index, stored.snapshot.last.term, at);
    }
    if (!error) {
        *report = json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "member",
                            json_sprintf("%016" PRIx64, wal_identity(wal)->member), "term",
                            (json_int_t)stored.hard_state.term, "snapshot",
                            (json_int_t)stored.snapshot.last.index, "log_first",
                            (json_int_t)stored.before.index + 1, "log_last",
                            (json_int_t)stored.last_index, "segments",
                            (json_int_t)(status.last_segment - status.first_segment + 1),
                            "torn_tail_bytes", (json_int_t)status.cut_bytes, "members",
                            (json_int_t)stored.snapshot.configuration.count);
        wal_snapshot_reader_free(reader);
    }
    wal_close(wal);
    return error;
}

static int check_main(int argc, char **argv)
{
    struct store_options o = {0};
    struct error err = {0};
    struct files files;
    json_t *report = NULL;
    char **arguments;
    int status = options_parse(&store_check, argc, argv, &o, &arguments);
    if (status != OPTIONS_GO)
        return status;
    int error = files_posix_open(&files, arguments[0]);
    if (error) {
        error_set_errno(&err, -error, "'%s' can't be opened%s", arguments[0],
                        error == -EWOULDBLOCK ? " (a member uses it)" : "");
        return store_fail(&store_check, &err);
    }
    error = check_log(&files, &err, &report);
    files_posix_close(&files);
    return error ? store_fail(&store_check, &err) : print_json(&o, report);
}

static const struct option_spec check_options[] = {OPTIONS_FORMAT, {0}};

const struct subcommand store_check = {
    .name = "store check",
    .arguments = "DIR",
    .summary = "checks the directory of a member that isn't running",
    .options = check_options,
    .least = 1,
    .most = 1,
    .run = check_main,
};
