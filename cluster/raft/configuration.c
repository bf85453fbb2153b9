// Configurations as values: what one may look like, their encoding, and the way from one to the
// next. Which one counts is membership.c's subject.
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "cluster/raft/raft_internal.h"

#define CONFIGURATION_VERSION 1

bool raft_configuration_is_joint(const struct raft_configuration *configuration)
{
    for (uint32_t i = 0; i < configuration->count; i++)
        if (configuration->members[i].roles & RAFT_VOTER_OLD)
            return true;
    return false;
}

uint8_t raft_configuration_roles(const struct raft_configuration *configuration, uint64_t id)
{
    for (uint32_t i = 0; i < configuration->count; i++)
        if (configuration->members[i].id == id)
            return configuration->members[i].roles;
    return 0;
}

static bool roles_are_valid(uint8_t roles)
{
    if (roles == 0 || (roles & ~(RAFT_VOTER | RAFT_VOTER_OLD | RAFT_LEARNER)))
        return false;
    return !((roles & RAFT_LEARNER) && (roles & RAFT_VOTER));
}

int raft_configuration_check(const struct raft_configuration *configuration)
{
    bool any_voter = false;

    if (configuration->count > RAFT_MEMBERS_MAX)
        return RAFT_ERROR_CONFIGURATION;
    for (uint32_t i = 0; i < configuration->count; i++) {
        const struct raft_member *member = &configuration->members[i];

        if (member->id == RAFT_NONE || !roles_are_valid(member->roles))
            return RAFT_ERROR_CONFIGURATION;
        if (i > 0 && member->id <= member[-1].id)
            return RAFT_ERROR_CONFIGURATION;
        any_voter |= (member->roles & RAFT_VOTER) != 0;
    }
    // Without members at all it is a server that waits to be added.
    return any_voter || configuration->count == 0 ? 0 : RAFT_ERROR_CONFIGURATION;
}

size_t raft_configuration_encode(const struct raft_configuration *configuration, uint8_t *buffer)
{
    struct byte_writer w;

    byte_writer_init_fixed(&w, buffer, RAFT_CONFIGURATION_BYTES_MAX);
    byte_writer_u16(&w, CONFIGURATION_VERSION);
    byte_writer_u32(&w, configuration->count);
    for (uint32_t i = 0; i < configuration->count && i < RAFT_MEMBERS_MAX; i++) {
        byte_writer_u64(&w, configuration->members[i].id);
        byte_writer_u8(&w, configuration->members[i].roles);
    }
    return w.length;
}

int raft_configuration_decode(struct raft_configuration *configuration, const uint8_t *data,
                              size_t length)
{
    struct byte_reader r;

    memset(configuration, 0, sizeof(*configuration));
    byte_reader_init(&r, data, length);
    if (byte_reader_u16(&r) != CONFIGURATION_VERSION)
        return -EBADMSG;
    uint32_t count = byte_reader_u32(&r);
    if (r.failed || count > RAFT_MEMBERS_MAX || byte_reader_left(&r) != (size_t)count * 9)
        return -EBADMSG;
    configuration->count = count;
    for (uint32_t i = 0; i < count; i++) {
        configuration->members[i].id = byte_reader_u64(&r);
        configuration->members[i].roles = byte_reader_u8(&r);
    }
    return raft_configuration_check(configuration) ? -EBADMSG : 0;
}

// Inserts in order of id; the caller has made sure that there is room.
static struct raft_member *member_add(struct raft_configuration *configuration, uint64_t id)
{
    uint32_t at = configuration->count++;

    for (; at > 0 && configuration->members[at - 1].id > id; at--)
        configuration->members[at] = configuration->members[at - 1];
    configuration->members[at] = (struct raft_member){.id = id};
    return &configuration->members[at];
}

static struct raft_member *member_find(struct raft_configuration *configuration, uint64_t id)
{
    for (uint32_t i = 0; i < configuration->count; i++)
        if (configuration->members[i].id == id)
            return &configuration->members[i];
    return NULL;
}

static bool voters_differ(const struct raft_configuration *joint)
{
    for (uint32_t i = 0; i < joint->count; i++) {
        uint8_t voter = joint->members[i].roles & (RAFT_VOTER | RAFT_VOTER_OLD);

        if (voter == RAFT_VOTER || voter == RAFT_VOTER_OLD)
            return true;
    }
    return false;
}

int raft_configuration_change(const struct raft_configuration *from,
                              const struct raft_member *members, size_t count,
                              struct raft_configuration *result)
{
    *result = (struct raft_configuration){.count = 0};
    for (uint32_t i = 0; i < from->count; i++)
        if (from->members[i].roles & RAFT_VOTER)
            member_add(result, from->members[i].id)->roles = RAFT_VOTER_OLD;
    for (size_t i = 0; i < count; i++) {
        struct raft_member *member = member_find(result, members[i].id);

        if (members[i].id == RAFT_NONE ||
            (members[i].roles != RAFT_VOTER && members[i].roles != RAFT_LEARNER))
            return RAFT_ERROR_CONFIGURATION;
        if (member && member->roles != RAFT_VOTER_OLD)
            return RAFT_ERROR_CONFIGURATION; // named twice
        if (!member && result->count == RAFT_MEMBERS_MAX)
            return RAFT_ERROR_CONFIGURATION;
        if (!member)
            member = member_add(result, members[i].id);
        member->roles |= members[i].roles;
    }
    if (raft_configuration_check(result) || result->count == 0)
        return RAFT_ERROR_CONFIGURATION;
    // The same voters: their majorities are the same, and one step is as safe as two.
    if (!voters_differ(result))
        raft_configuration_leave(result);
    return 0;
}

void raft_configuration_leave(struct raft_configuration *configuration)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < configuration->count; i++) {
        struct raft_member member = configuration->members[i];

        member.roles &= (uint8_t)~RAFT_VOTER_OLD;
        if (member.roles)
            configuration->members[kept++] = member;
    }
    memset(&configuration->members[kept], 0,
           (configuration->count - kept) * sizeof(configuration->members[0]));
    configuration->count = kept;
}
