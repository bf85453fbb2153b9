#include "vmm/kvm_statistics.h"

#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STATS_NAME_LIMIT = 256, STATS_LIMIT = 1024 };

uint64_t kvm_statistic(int fd, const char *name)
{
    struct kvm_stats_header header;
    if (pread(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) || header.name_size == 0 ||
        header.name_size > STATS_NAME_LIMIT || header.num_desc > STATS_LIMIT)
        return 0;
    size_t size = sizeof(struct kvm_stats_desc) + header.name_size;
    struct kvm_stats_desc *desc = malloc(size);
    if (!desc)
        return 0;
    uint64_t value = 0;
    for (uint32_t i = 0; i < header.num_desc; i++) {
        off_t at = (off_t)(header.desc_offset + i * size);
        if (pread(fd, desc, size, at) != (ssize_t)size)
            break;
        if (strncmp(desc->name, name, header.name_size) != 0)
            continue;
        if (pread(fd, &value, sizeof(value), (off_t)(header.data_offset + desc->offset)) !=
            (ssize_t)sizeof(value))
            value = 0;
        break;
    }
    free(desc);
    return value;
}
