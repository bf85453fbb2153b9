// Any bytes as a Raft message: refused, or a message whose encoding is those bytes again.
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/raft_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct raft_message_decoded decoded;
    struct raft_configuration configuration;

    if (raft_message_decode(&decoded, data, size) == 0) {
        size_t length = 0;
        uint8_t *again = malloc(size);

        assert(raft_message_size(&decoded.message) == size);
        assert(raft_message_encode(&decoded.message, again, size, &length) == 0);
        assert(length == size && memcmp(again, data, size) == 0);
        free(again);
    }
    if (raft_configuration_decode(&configuration, data, size) == 0) {
        uint8_t again[RAFT_CONFIGURATION_BYTES_MAX];

        assert(raft_configuration_encode(&configuration, again) == size);
        assert(memcmp(again, data, size) == 0);
    }
    return 0;
}
