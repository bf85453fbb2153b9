#include "cluster/api/remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "cluster/api/bridge.h"
#include "cluster/member/member.h"
#include "cluster/member/protocol.h"

enum { LOOK_MS = 200 };

// Used by the bridge and by the control server; freed when neither does any more.
struct remote_client {
    LIST_ENTRY(remote_client) link;
    struct remote *remote;
    struct tls_subject subject;
    char name[TLS_NAME_SIZE + CONNECTION_ADDRESS_TEXT + 32];
    struct api_caller caller;
    struct control_service service;
    struct bridge *bridge; // NULL once it has ended
    unsigned users;
};

static void release(struct remote_client *client)
{
    if (--client->users == 0)
        free(client);
}

// ---- turning away ----

static void refuse(struct connection *connection, const char *code, const char *message)
{
    json_t *line = json_pack("{s:{s:s, s:s}}", "refused", "code", code, "message", message);
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    if (text) {
        connection_send_bytes(connection, text, strlen(text));
        connection_send_bytes(connection, "\n", 1);
    }
    free(text);
    connection_finish(connection);
}

static unsigned count_of(const struct remote *remote, const struct tls_subject *subject)
{
    const struct remote_client *client;
    unsigned count = 0;
    LIST_FOREACH(client, &remote->clients, link)
    count += strcmp(client->subject.id, subject->id) == 0 &&
             strcmp(client->subject.name, subject->name) == 0;
    return count;
}

// ---- one client ----

static void control_gone(void *opaque)
{
    struct api_caller *caller = opaque;
    struct remote_client *client =
        (struct remote_client *)((char *)caller - offsetof(struct remote_client, caller));
    release(client);
}

static void bridge_ended(void *context, const char *reason)
{
    struct remote_client *client = context;
    LIST_REMOVE(client, link);
    client->remote->count--;
    client->bridge = NULL;
    log_debug("%s: gone: %s", client->name, reason);
    release(client);
}

static struct remote_client *make_client(struct remote *remote, struct connection *connection,
                                         const struct tls_subject *subject)
{
    struct remote_client *client = calloc(1, sizeof(*client));
    if (!client)
        return NULL;
    bool read_only = strcmp(subject->unit, MEMBER_UNIT_READ_ONLY) == 0;
    client->remote = remote;
    client->subject = *subject;
    snprintf(client->name, sizeof(client->name), "%s '%s' at %s",
             subject->client ? "client" : "host", subject->name,
             connection_peer_address(connection));
    client->caller = (struct api_caller){.api = remote->api, .name = client->name};
    api_service(&client->caller, read_only ? API_READ : API_CHANGE, &client->service);
    return client;
}

// A socket pair between the control server and the bridge: so it is served as all others are. On
// failure the client is freed and the connection is still there.
static int connect_client(struct remote *remote, struct remote_client *client,
                          struct connection *connection)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return -errno;
    // The bridge first: it can be undone.
    int r = bridge_create(&client->bridge, remote->api->loop, connection, pair[1], NULL, 0,
                          bridge_ended, client);
    if (r) {
        close(pair[0]);
        close(pair[1]);
        free(client);
        return r;
    }
    client->users = 1;
    LIST_INSERT_HEAD(&remote->clients, client, link);
    remote->count++;
    if (control_server_adopt(remote->api->server, pair[0], &client->service, control_gone) == 0) {
        client->users++;
        return 0;
    }
    close(pair[0]); // which ends the bridge
    return 0;
}

void remote_accept(struct remote *remote, struct connection *connection,
                   const struct tls_subject *subject, const char *refusal)
{
    char text[200];
    if (!remote->started) {
        refuse(connection, "wrong-state", "this ferryd is starting or stopping: try again");
        return;
    }
    if (refusal) {
        if (subject->name[0])
            snprintf(text, sizeof(text), "the certificate of '%s' isn't accepted: %s",
                     subject->name, refusal);
        else
            snprintf(text, sizeof(text), "no certificate of this cluster was shown");
        refuse(connection, "not-allowed", text);
        return;
    }
    if (connection_speaks(connection, PROTOCOL_STREAM)) {
        streams_accept(&remote->streams, connection, subject);
        return;
    }
    if (remote->count >= REMOTE_CLIENTS_MAX ||
        count_of(remote, subject) >= REMOTE_CLIENTS_EACH_MAX) {
        log_warning("%s '%s' at %s was turned away: it has too many connections, or all have",
                    subject->client ? "client" : "host", subject->name,
                    connection_peer_address(connection));
        refuse(connection, "busy", "there are too many connections of clients: try again later");
        return;
    }
    struct remote_client *client = make_client(remote, connection, subject);
    if (!client) {
        connection_close(connection);
        return;
    }
    if (connect_client(remote, client, connection))
        refuse(connection, "busy", "this ferryd can't serve more clients now: try again later");
}

// ---- life ----

// Certificates may be taken back, or expire, while they are used.
static void look(uv_timer_t *timer)
{
    struct remote *remote = timer->data;
    struct remote_client *client, *next;
    streams_look(&remote->streams);
    for (client = LIST_FIRST(&remote->clients); client; client = next) {
        next = LIST_NEXT(client, link);
        const char *fault = remote->fault(remote->context, &client->subject);
        if (fault) {
            log_info("%s: cut off: its certificate isn't accepted any more: %s", client->name,
                     fault);
            bridge_end(client->bridge, fault);
        }
    }
}

void remote_start(struct remote *remote, uv_loop_t *loop)
{
    LIST_INIT(&remote->clients);
    uv_timer_init(loop, &remote->timer);
    remote->timer.data = remote;
    remote->started = uv_timer_start(&remote->timer, look, LOOK_MS, LOOK_MS) == 0;
}

void remote_stop(struct remote *remote)
{
    struct remote_client *client, *next;
    if (!remote->started)
        return;
    remote->started = false;
    uv_close((uv_handle_t *)&remote->timer, NULL);
    streams_stop(&remote->streams);
    for (client = LIST_FIRST(&remote->clients); client; client = next) {
        next = LIST_NEXT(client, link);
        bridge_end(client->bridge, "ferryd stops");
    }
}
