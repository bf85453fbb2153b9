// Raft: the encoding of messages and configurations. Every message survives a round trip; nothing
// else is ever believed.
#include "tests/unit/raft_cluster.h"

static const uint8_t data_a[] = {1, 2, 3, 4, 5};
static uint8_t configuration_bytes[RAFT_CONFIGURATION_BYTES_MAX];

static const struct raft_configuration joint = {.count = 4,
                                                .members = {{3, RAFT_VOTER | RAFT_VOTER_OLD},
                                                            {5, RAFT_VOTER_OLD | RAFT_LEARNER},
                                                            {9, RAFT_VOTER},
                                                            {UINT64_MAX, RAFT_LEARNER}}};

// One of each type, every field different.
static size_t samples(struct raft_message *m, struct raft_entry *entries)
{
    size_t n = 0;

    for (int type = 1; type <= RAFT_MESSAGE_TYPE_MAX; type++)
        m[n++] = test_message((enum raft_message_type)type, 0x1112131415161718, UINT64_MAX,
                              0x2122232425262728);
    for (size_t i = 0; i < n; i++) {
        struct raft_message *s = &m[i];

        switch (s->type) {
        case RAFT_MESSAGE_PRE_VOTE_REQUEST:
        case RAFT_MESSAGE_VOTE_REQUEST:
            s->vote_request.last = (struct raft_position){31, 32};
            s->vote_request.transfer = true;
            break;
        case RAFT_MESSAGE_PRE_VOTE_REPLY:
        case RAFT_MESSAGE_VOTE_REPLY:
            s->vote_reply.granted = true;
            break;
        case RAFT_MESSAGE_APPEND_REQUEST:
            entries[0] = (struct raft_entry){.index = 42, .term = 41, .type = RAFT_ENTRY_NOOP};
            entries[1] = (struct raft_entry){.index = 43,
                                             .term = 44,
                                             .type = RAFT_ENTRY_COMMAND,
                                             .length = sizeof(data_a),
                                             .data = data_a};
            entries[2] = (struct raft_entry){
                .index = 44,
                .term = 44,
                .type = RAFT_ENTRY_CONFIGURATION,
                .length = (uint32_t)raft_configuration_encode(&joint, configuration_bytes),
                .data = configuration_bytes};
            s->append_request.previous = (struct raft_position){41, 41};
            s->append_request.commit = 45;
            s->append_request.entries = entries;
            s->append_request.entry_count = 3;
            break;
        case RAFT_MESSAGE_APPEND_REPLY:
            s->append_reply.success = true;
            s->append_reply.match = 51;
            s->append_reply.rejected = 52;
            s->append_reply.hint = (struct raft_position){53, 54};
            break;
        case RAFT_MESSAGE_HEARTBEAT_REQUEST:
            s->heartbeat_request.commit = 61;
            s->heartbeat_request.round = 62;
            break;
        case RAFT_MESSAGE_HEARTBEAT_REPLY:
            s->heartbeat_reply.round = 71;
            break;
        case RAFT_MESSAGE_SNAPSHOT_REQUEST:
            s->snapshot_request.last = (struct raft_position){81, 82};
            s->snapshot_request.configuration = &joint;
            s->snapshot_request.offset = 83;
            s->snapshot_request.data = data_a;
            s->snapshot_request.length = sizeof(data_a);
            s->snapshot_request.done = true;
            break;
        case RAFT_MESSAGE_SNAPSHOT_REPLY:
            s->snapshot_reply.last = (struct raft_position){91, 92};
            s->snapshot_reply.offset = 93;
            s->snapshot_reply.installed = true;
            break;
        case RAFT_MESSAGE_TIMEOUT_NOW:
            break;
        }
    }
    return n;
}

START_TEST(every_message_survives_a_round_trip)
{
    struct raft_message messages[RAFT_MESSAGE_TYPE_MAX];
    struct raft_message_decoded *decoded = malloc(sizeof(*decoded));
    struct raft_entry entries[3];
    size_t count = samples(messages, entries);

    ck_assert_uint_eq(count, RAFT_MESSAGE_TYPE_MAX);
    for (size_t i = 0; i < count; i++) {
        uint8_t bytes[1024], again[1024];
        size_t length = 0, length_again = 0;

        ck_assert_int_eq(raft_message_encode(&messages[i], bytes, sizeof(bytes), &length), 0);
        ck_assert_uint_eq(length, raft_message_size(&messages[i]));
        ck_assert_int_eq(raft_message_decode(decoded, bytes, length), 0);
        ck_assert_int_eq(decoded->message.type, messages[i].type);
        ck_assert_uint_eq(decoded->message.from, messages[i].from);
        ck_assert_uint_eq(decoded->message.to, messages[i].to);
        ck_assert_uint_eq(decoded->message.term, messages[i].term);
        // The same bytes come out, so every field came in.
        ck_assert_int_eq(
            raft_message_encode(&decoded->message, again, sizeof(again), &length_again), 0);
        ck_assert_uint_eq(length, length_again);
        ck_assert_int_eq(memcmp(bytes, again, length), 0);
        ck_assert_str_ne(raft_message_type_name(messages[i].type), "unknown");
    }
    free(decoded);
}
END_TEST

START_TEST(entries_keep_their_fields)
{
    struct raft_message messages[RAFT_MESSAGE_TYPE_MAX];
    struct raft_message_decoded *decoded = malloc(sizeof(*decoded));
    struct raft_entry entries[3];
    uint8_t bytes[1024];
    size_t length = 0;

    samples(messages, entries);
    ck_assert_int_eq(raft_message_encode(&messages[RAFT_MESSAGE_APPEND_REQUEST - 1], bytes,
                                         sizeof(bytes), &length),
                     0);
    ck_assert_int_eq(raft_message_decode(decoded, bytes, length), 0);
    for (int i = 0; i < 3; i++) {
        const struct raft_entry *entry = &decoded->message.append_request.entries[i];

        ck_assert_uint_eq(entry->index, entries[i].index);
        ck_assert_uint_eq(entry->term, entries[i].term);
        ck_assert_int_eq(entry->type, entries[i].type);
        ck_assert_uint_eq(entry->length, entries[i].length);
        if (entry->length)
            ck_assert_int_eq(memcmp(entry->data, entries[i].data, entry->length), 0);
    }
    free(decoded);
}
END_TEST

START_TEST(the_bytes_are_those_of_the_table)
{
    struct raft_message message = test_message(RAFT_MESSAGE_APPEND_REPLY, 1, 2, 3);
    static const uint8_t expected[] = {
        1, 6,                   // version, type
        1, 0, 0, 0, 0, 0, 0, 0, // from
        2, 0, 0, 0, 0, 0, 0, 0, // to
        3, 0, 0, 0, 0, 0, 0, 0, // term
        0,                      // success
        4, 0, 0, 0, 0, 0, 0, 0, // match
        5, 1, 0, 0, 0, 0, 0, 0, // rejected
        6, 0, 0, 0, 0, 0, 0, 0, // hint: index
        7, 0, 0, 0, 0, 0, 0, 0, // hint: term
    };
    uint8_t bytes[100];
    size_t length = 0;

    message.append_reply.match = 4;
    message.append_reply.rejected = 0x105;
    message.append_reply.hint = (struct raft_position){6, 7};
    ck_assert_int_eq(raft_message_encode(&message, bytes, sizeof(bytes), &length), 0);
    ck_assert_uint_eq(length, sizeof(expected));
    ck_assert_int_eq(memcmp(bytes, expected, length), 0);
}
END_TEST

START_TEST(a_buffer_that_is_too_small_is_refused)
{
    struct raft_message messages[RAFT_MESSAGE_TYPE_MAX];
    struct raft_entry entries[3];
    size_t count = samples(messages, entries);

    for (size_t i = 0; i < count; i++)
        for (size_t capacity = 0; capacity < raft_message_size(&messages[i]); capacity++) {
            uint8_t *bytes = malloc(capacity ? capacity : 1);
            size_t length;

            ck_assert_int_eq(raft_message_encode(&messages[i], bytes, capacity, &length), -ENOSPC);
            free(bytes);
        }
}
END_TEST

START_TEST(messages_that_can_not_be_are_not_encoded)
{
    struct raft_message message = test_message((enum raft_message_type)0, 1, 2, 3);
    uint8_t bytes[100];
    size_t length;

    ck_assert_int_eq(raft_message_encode(&message, bytes, sizeof(bytes), &length), -EINVAL);
    message.type = (enum raft_message_type)(RAFT_MESSAGE_TYPE_MAX + 1);
    ck_assert_int_eq(raft_message_encode(&message, bytes, sizeof(bytes), &length), -EINVAL);
    message.type = RAFT_MESSAGE_APPEND_REQUEST;
    message.append_request.entry_count = RAFT_MESSAGE_ENTRIES_MAX + 1;
    ck_assert_int_eq(raft_message_encode(&message, bytes, sizeof(bytes), &length), -EINVAL);
    ck_assert_str_eq(raft_message_type_name((enum raft_message_type)99), "unknown");
}
END_TEST

START_TEST(every_truncation_and_every_tail_is_refused)
{
    struct raft_message messages[RAFT_MESSAGE_TYPE_MAX];
    struct raft_message_decoded *decoded = malloc(sizeof(*decoded));
    struct raft_entry entries[3];
    size_t count = samples(messages, entries);

    for (size_t i = 0; i < count; i++) {
        size_t size = raft_message_size(&messages[i]), length = 0;
        uint8_t *bytes = malloc(size + 1);

        ck_assert_int_eq(raft_message_encode(&messages[i], bytes, size, &length), 0);
        for (size_t cut = 0; cut < size; cut++) {
            uint8_t *exact = malloc(cut ? cut : 1); // so that a sanitizer sees a read past it

            memcpy(exact, bytes, cut);
            ck_assert_int_eq(raft_message_decode(decoded, exact, cut), -EBADMSG);
            free(exact);
        }
        bytes[size] = 0;
        ck_assert_int_eq(raft_message_decode(decoded, bytes, size + 1), -EBADMSG);
        free(bytes);
    }
    free(decoded);
}
END_TEST

// Single bytes changed in good messages.
START_TEST(hostile_fields_are_refused)
{
    static const struct {
        enum raft_message_type type;
        size_t offset;
        uint8_t value;
        int error;
    } cases[] = {
        {RAFT_MESSAGE_HEARTBEAT_REQUEST, 0, 2, -EPROTONOSUPPORT},
        {RAFT_MESSAGE_HEARTBEAT_REQUEST, 0, 0, -EPROTONOSUPPORT},
        {RAFT_MESSAGE_HEARTBEAT_REQUEST, 1, 0, -EBADMSG},
        {RAFT_MESSAGE_HEARTBEAT_REQUEST, 1, RAFT_MESSAGE_TYPE_MAX + 1, -EBADMSG},
        {RAFT_MESSAGE_VOTE_REPLY, 26, 2, -EBADMSG}, // a truth that is neither
        {RAFT_MESSAGE_VOTE_REQUEST, 26 + 16, 0x80, -EBADMSG},
        {RAFT_MESSAGE_APPEND_REQUEST, 26 + 7, 0xff, -EBADMSG},   // indexes would overflow
        {RAFT_MESSAGE_APPEND_REQUEST, 26 + 24, 4, -EBADMSG},     // an entry too many
        {RAFT_MESSAGE_APPEND_REQUEST, 26 + 26, 1, -EBADMSG},     // 65536 too many
        {RAFT_MESSAGE_APPEND_REQUEST, 26 + 8, 42, -EBADMSG},     // terms fall from previous on
        {RAFT_MESSAGE_APPEND_REQUEST, 26 + 28, 50, -EBADMSG},    // and within
        {RAFT_MESSAGE_APPEND_REQUEST, 26 + 28 + 8, 3, -EBADMSG}, // type of an entry
        {RAFT_MESSAGE_APPEND_REQUEST, 26 + 28 + 9, 1, -EBADMSG}, // its length
        {RAFT_MESSAGE_APPEND_REQUEST, 26 + 28 + 12, 0xff, -EBADMSG},
        {RAFT_MESSAGE_SNAPSHOT_REQUEST, 26 + 16, 0xff, -EBADMSG},  // length of the configuration
        {RAFT_MESSAGE_SNAPSHOT_REQUEST, 26 + 20, 2, -EBADMSG},     // its version
        {RAFT_MESSAGE_SNAPSHOT_REQUEST, 26 + 22, 5, -EBADMSG},     // its count
        {RAFT_MESSAGE_SNAPSHOT_REQUEST, 26 + 26 + 8, 0, -EBADMSG}, // roles
        {RAFT_MESSAGE_SNAPSHOT_REQUEST, 26 + 26 + 8, 5, -EBADMSG},
        {RAFT_MESSAGE_SNAPSHOT_REQUEST, 26 + 26, 7, -EBADMSG}, // order of ids
    };
    struct raft_message messages[RAFT_MESSAGE_TYPE_MAX];
    struct raft_message_decoded *decoded = malloc(sizeof(*decoded));
    struct raft_entry entries[3];

    samples(messages, entries);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t bytes[1024];
        size_t length = 0;

        ck_assert_int_eq(
            raft_message_encode(&messages[cases[i].type - 1], bytes, sizeof(bytes), &length), 0);
        ck_assert_int_eq(raft_message_decode(decoded, bytes, length), 0);
        bytes[cases[i].offset] = cases[i].value;
        ck_assert_msg(raft_message_decode(decoded, bytes, length) == cases[i].error, "case %zu", i);
    }
    free(decoded);
}
END_TEST

START_TEST(servers_without_an_id_are_refused)
{
    struct raft_message message = test_message(RAFT_MESSAGE_TIMEOUT_NOW, RAFT_NONE, 2, 3);
    struct raft_message_decoded *decoded = malloc(sizeof(*decoded));
    uint8_t bytes[100];
    size_t length = 0;

    raft_message_encode(&message, bytes, sizeof(bytes), &length);
    ck_assert_int_eq(raft_message_decode(decoded, bytes, length), -EBADMSG);
    message = test_message(RAFT_MESSAGE_TIMEOUT_NOW, 1, RAFT_NONE, 3);
    raft_message_encode(&message, bytes, sizeof(bytes), &length);
    ck_assert_int_eq(raft_message_decode(decoded, bytes, length), -EBADMSG);
    free(decoded);
}
END_TEST

START_TEST(configurations_survive_a_round_trip)
{
    struct raft_configuration full = {.count = RAFT_MEMBERS_MAX}, decoded;
    uint8_t bytes[RAFT_CONFIGURATION_BYTES_MAX];

    for (uint64_t i = 0; i < RAFT_MEMBERS_MAX; i++)
        full.members[i] = (struct raft_member){i * 1000 + 7, i % 2 ? RAFT_LEARNER : RAFT_VOTER};
    const struct raft_configuration none = {.count = 0}, *cases[] = {&joint, &full, &none};
    for (int i = 0; i < 3; i++) {
        size_t length = raft_configuration_encode(cases[i], bytes);

        ck_assert_uint_le(length, sizeof(bytes));
        ck_assert_int_eq(raft_configuration_decode(&decoded, bytes, length), 0);
        ck_assert_uint_eq(decoded.count, cases[i]->count);
        for (uint32_t m = 0; m < decoded.count; m++) {
            ck_assert_uint_eq(decoded.members[m].id, cases[i]->members[m].id);
            ck_assert_uint_eq(decoded.members[m].roles, cases[i]->members[m].roles);
        }
        for (size_t cut = 0; cut < length; cut++)
            ck_assert_int_eq(raft_configuration_decode(&decoded, bytes, cut), -EBADMSG);
    }
}
END_TEST

START_TEST(invalid_configurations_are_refused)
{
    static const struct raft_configuration cases[] = {
        {.count = 1, .members = {{1, RAFT_LEARNER}}},                // nobody votes
        {.count = 1, .members = {{1, RAFT_VOTER_OLD}}},              // nor in C_new
        {.count = 2, .members = {{2, RAFT_VOTER}, {1, RAFT_VOTER}}}, // order
        {.count = 2, .members = {{1, RAFT_VOTER}, {1, RAFT_VOTER}}}, // twice
        {.count = 1, .members = {{RAFT_NONE, RAFT_VOTER}}},
        {.count = 1, .members = {{1, 0}}},
        {.count = 1, .members = {{1, RAFT_VOTER | RAFT_LEARNER}}},
        {.count = 1, .members = {{1, RAFT_VOTER | 8}}},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint8_t bytes[RAFT_CONFIGURATION_BYTES_MAX];
        struct raft_configuration decoded;
        size_t length = raft_configuration_encode(&cases[i], bytes);

        ck_assert_int_eq(raft_configuration_decode(&decoded, bytes, length), -EBADMSG);
    }
}
END_TEST

// What decodes need not be plausible; the core refuses what no correct server sends.
START_TEST(implausible_messages_are_refused_by_the_core)
{
    struct test_server *s = test_alone(1, 3);
    struct raft_entry noop_with_data = {
        .index = 1, .term = 1, .type = RAFT_ENTRY_NOOP, .length = sizeof(data_a), .data = data_a};
    struct raft_entry not_a_configuration = noop_with_data;
    struct raft_entry future = {.index = 1, .term = 9, .type = RAFT_ENTRY_NOOP};
    struct raft_entry gap = {.index = 2, .term = 1, .type = RAFT_ENTRY_NOOP};
    struct raft_entry *entries[] = {&noop_with_data, &not_a_configuration, &future, &gap};

    not_a_configuration.type = RAFT_ENTRY_CONFIGURATION;
    for (int i = 0; i < 4; i++) {
        struct raft_message message = test_message(RAFT_MESSAGE_APPEND_REQUEST, 2, 1, 1);

        message.append_request.entries = entries[i];
        message.append_request.entry_count = 1;
        ck_assert_int_eq(raft_step(s->raft, &message), RAFT_ERROR_MALFORMED);
    }
    for (int type = 0; type <= RAFT_MESSAGE_TYPE_MAX + 1; type++) {
        struct raft_message astray = test_message((enum raft_message_type)type, 2, 3, 1);
        struct raft_message mirror = test_message((enum raft_message_type)type, 1, 1, 1);
        struct raft_message nobody = test_message((enum raft_message_type)type, RAFT_NONE, 1, 1);
        struct raft_message late = test_message((enum raft_message_type)type, 2, 1, UINT64_MAX);

        ck_assert_int_eq(raft_step(s->raft, &astray), RAFT_ERROR_MALFORMED);
        ck_assert_int_eq(raft_step(s->raft, &mirror), RAFT_ERROR_MALFORMED);
        ck_assert_int_eq(raft_step(s->raft, &nobody), RAFT_ERROR_MALFORMED);
        ck_assert_int_eq(raft_step(s->raft, &late), RAFT_ERROR_MALFORMED);
    }
    ck_assert_uint_eq(test_status(s).hard_state.term, 0);
    test_alone_free(s);
}
END_TEST

START_TEST(every_error_has_words)
{
    for (int error = RAFT_ERROR_STORAGE; error <= RAFT_ERROR_NOT_LEADER; error++) {
        ck_assert_ptr_nonnull(raft_strerror(error));
        ck_assert_ptr_null(strstr(raft_strerror(error), "nknown"));
    }
    ck_assert_str_eq(raft_strerror(-ENOMEM), strerror(ENOMEM));
}
END_TEST

static void add(TCase *tests)
{
    tcase_add_test(tests, every_message_survives_a_round_trip);
    tcase_add_test(tests, entries_keep_their_fields);
    tcase_add_test(tests, the_bytes_are_those_of_the_table);
    tcase_add_test(tests, a_buffer_that_is_too_small_is_refused);
    tcase_add_test(tests, messages_that_can_not_be_are_not_encoded);
    tcase_add_test(tests, every_truncation_and_every_tail_is_refused);
    tcase_add_test(tests, hostile_fields_are_refused);
    tcase_add_test(tests, servers_without_an_id_are_refused);
    tcase_add_test(tests, configurations_survive_a_round_trip);
    tcase_add_test(tests, invalid_configurations_are_refused);
    tcase_add_test(tests, implausible_messages_are_refused_by_the_core);
    tcase_add_test(tests, every_error_has_words);
}

int main(void)
{
    return test_main("raft_message", add);
}
