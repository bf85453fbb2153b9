// virtio-blk through its rings, registers, PCI configuration and state.
#include "tests/unit/virtio_fuzzer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return virtio_fuzz_run(FUZZ_BLK, data, size);
}
