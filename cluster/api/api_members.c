// cluster.voter: which hosts' members of the store decide
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/api/api.h"
#include "cluster/store/store_admin.h"

struct wish {
    uint64_t id;
    enum member_wish wish;
};

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "";
}

static bool is_voter(const json_t *member)
{
    const char *role = text_of(member, "role");
    return strcmp(role, "voter") == 0 || strcmp(role, "leader") == 0;
}

static bool names(const json_t *list, const char *name)
{
    size_t i;
    const json_t *value;
    json_array_foreach(list, i, value)
    {
        if (json_is_string(value) && strcmp(json_string_value(value), name) == 0)
            return true;
    }
    return false;
}

static bool is_client_host(const json_t *answer, const char *name)
{
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(answer, "client_hosts"), i, one)
    {
        if (name && strcmp(text_of(one, "name"), name) == 0)
            return true;
    }
    return false;
}

static int check_names(struct api_call *call, const char *what, const json_t *answer)
{
    const json_t *members = json_object_get(answer, "members");
    const json_t *list = json_object_get(call->params, what);
    size_t i, k;
    const json_t *value, *member;
    if (list && !json_is_array(list))
        return error_set(&call->err, EINVAL, "\"%s\" must be a list of hosts", what);
    json_array_foreach(list, i, value)
    {
        const char *name = json_string_value(value);
        bool found = false;
        json_array_foreach(members, k, member)
        {
            found = found || (name && strcmp(text_of(member, "name"), name) == 0);
        }
        if (!found && is_client_host(answer, name) && strcmp(what, "remove") == 0) {
            call->code = "wrong-state";
            return error_set(&call->err, EINVAL, "'%s' is a client host, and no voter", name);
        }
        if (!found && is_client_host(answer, name)) {
            call->code = "wrong-state";
            return error_set(&call->err, EINVAL,
                             "'%s' is a client host, which has no log: drain it, stop its ferryd, "
                             "`ferry cluster remove %s` when it counts as dead, empty its data "
                             "directory, and join it anew with --role member",
                             name, name);
        }
        if (!found) {
            call->code = "not-found";
            return error_set(&call->err, ENOENT,
                             "there is no host '%s' with a member of the store (`ferry cluster "
                             "hosts`)",
                             name ? name : "");
        }
    }
    return 0;
}

// What is to be written, and how many voters come of it.
static unsigned plan(const struct api_call *call, const json_t *members,
                     struct wish wishes[STORE_MEMBERS_MAX], unsigned *voters)
{
    const json_t *add = json_object_get(call->params, "add"), *member;
    const json_t *remove = json_object_get(call->params, "remove");
    unsigned count = 0;
    size_t i;
    *voters = 0;
    json_array_foreach(members, i, member)
    {
        const char *name = text_of(member, "name"), *wish = text_of(member, "wish");
        bool stays = is_voter(member) && strcmp(wish, "learner") != 0;
        bool added = names(add, name), removed = names(remove, name);
        *voters += !removed && (added || stays || strcmp(wish, "voter") == 0);
        if ((added || removed) && count < STORE_MEMBERS_MAX)
            wishes[count++] = (struct wish){strtoull(text_of(member, "id"), NULL, 16),
                                            added ? MEMBER_WISH_VOTER : MEMBER_WISH_LEARNER};
    }
    return count;
}

static int write_wishes(struct api_call *call, const struct wish *wishes, unsigned count)
{
    struct byte_writer body;
    struct byte_reader answer;
    byte_writer_init(&body);
    byte_writer_u16(&body, (uint16_t)count);
    for (unsigned i = 0; i < count; i++) {
        byte_writer_u64(&body, wishes[i].id);
        byte_writer_u8(&body, (uint8_t)wishes[i].wish);
    }
    enum store_status status = store_client_request(call->exchange.client, REQUEST_MEMBER_ROLES,
                                                    body.data, body.length, &answer, &call->err);
    byte_writer_free(&body);
    return status == STORE_OK
               ? 0
               : error_set(&call->err, EAGAIN, "store: %s", store_status_text(status));
}

int api_cluster_voter(struct api_call *call)
{
    struct wish wishes[STORE_MEMBERS_MAX];
    unsigned voters;
    json_t *answer = api_store_json(call, REQUEST_MEMBERS);
    if (!answer)
        return -call->err.code;
    const json_t *members = json_object_get(answer, "members");
    int r = check_names(call, "add", answer);
    if (!r)
        r = check_names(call, "remove", answer);
    unsigned count = r ? 0 : plan(call, members, wishes, &voters);
    json_decref(answer);
    if (r)
        return r;
    if (count == 0)
        return error_set(&call->err, EINVAL, "no host is named");
    if (voters == 0)
        return error_set(&call->err, EINVAL, "somebody must stay a voter");
    if (voters % 2 == 0 || voters > MEMBER_VOTERS_AUTO)
        return error_set(&call->err, EINVAL,
                         "that would make %u voters: a cluster has 1, 3, 5 or 7 (an even number "
                         "survives no more losses than one less; add or remove two at once)",
                         voters);
    r = write_wishes(call, wishes, count);
    if (!r)
        call->result = json_pack("{s:i}", "voters", (int)voters);
    return r;
}
