#include "vmm/cpu_time.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/log.h"
#include "devices/machine_ops.h"
#include "vmm/layout.h"

// KVM's record (Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME).
enum { MSR_STEAL_TIME = 0x4b564d03, STEAL_SIZE = 64, STEAL_ENABLED = 1 };
struct steal_record {
    uint64_t steal;
    uint32_t version; // odd while it is written
};

enum { PAGE_VERSION = 1, VCPUS_IN_PAGE = (LAYOUT_CPU_TIME_SIZE - 64) / 64 };

struct page_head {
    char magic[8];
    uint32_t version, vcpus;
};

struct page_record {
    uint32_t sequence, padding;
    uint64_t withheld_ns;
};

static struct page_record *record_of(const struct cpu_time *t, unsigned index)
{
    return (struct page_record *)(void *)(t->page + 64 + (size_t)index * 64);
}

void cpu_time_create(struct cpu_time *t, struct guest_memory *memory, unsigned vcpus,
                     const struct machine_ops *ops, void *machine)
{
    *t = (struct cpu_time){.memory = memory, .count = vcpus};
    uint8_t *page = mmap(NULL, LAYOUT_CPU_TIME_SIZE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        log_warning("the page of withheld CPU time: %s", strerror(errno));
        return;
    }
    struct page_head head = {.magic = "FERRYCPU", .version = PAGE_VERSION, .vcpus = vcpus};
    memcpy(page, &head, sizeof(head));
    int rc = ops->memory_map(machine, LAYOUT_CPU_TIME, page, LAYOUT_CPU_TIME_SIZE, true);
    if (rc < 0) {
        log_warning("mapping the page of withheld CPU time: %s", strerror(-rc));
        munmap(page, LAYOUT_CPU_TIME_SIZE);
        return;
    }
    t->page = page;
}

void cpu_time_destroy(struct cpu_time *t)
{
    if (t->page)
        munmap(t->page, LAYOUT_CPU_TIME_SIZE);
    t->page = NULL;
}

// The guest may look at any moment: odd, then the value, then even.
static void write_record(struct page_record *record, uint64_t value)
{
    uint32_t sequence = record->sequence;
    __atomic_store_n(&record->sequence, sequence + 1, __ATOMIC_RELAXED);
    // Without these two a reader could see a new value between two equal, even numbers.
    __atomic_thread_fence(__ATOMIC_RELEASE);
    __atomic_store_n(&record->withheld_ns, value, __ATOMIC_RELAXED);
    __atomic_store_n(&record->sequence, sequence + 2, __ATOMIC_RELEASE);
}

// KVM itself writes the record only on the vCPU's thread, inside KVM_RUN: nobody else does now.
static void add_to_steal_record(struct guest_memory *memory, int vcpu_fd, uint64_t ns)
{
    union {
        struct kvm_msrs msrs;
        uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    } one = {.msrs = {.nmsrs = 1}};
    one.msrs.entries[0].index = MSR_STEAL_TIME;
    if (ioctl(vcpu_fd, KVM_GET_MSRS, &one) != 1 || !(one.msrs.entries[0].data & STEAL_ENABLED))
        return;
    uint64_t gpa = one.msrs.entries[0].data & ~(uint64_t)(STEAL_SIZE - 1);
    struct steal_record *record = guest_memory_slice(memory, gpa, STEAL_SIZE);
    if (!record)
        return;
    uint32_t version = __atomic_load_n(&record->version, __ATOMIC_RELAXED) | 1;
    __atomic_store_n(&record->version, version, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE); // as in write_record()
    __atomic_store_n(&record->steal, __atomic_load_n(&record->steal, __ATOMIC_RELAXED) + ns,
                     __ATOMIC_RELAXED);
    __atomic_store_n(&record->version, version + 1, __ATOMIC_RELEASE);
    guest_memory_written(memory, gpa, STEAL_SIZE);
}

void cpu_time_add(struct cpu_time *t, unsigned index, int vcpu_fd, uint64_t ns)
{
    if (!ns)
        return;
    if (t->page && index < VCPUS_IN_PAGE)
        write_record(record_of(t, index), record_of(t, index)->withheld_ns + ns);
    add_to_steal_record(t->memory, vcpu_fd, ns);
}

uint64_t cpu_time_total(const struct cpu_time *t, unsigned index)
{
    if (!t->page || index >= VCPUS_IN_PAGE)
        return 0;
    return __atomic_load_n(&record_of(t, index)->withheld_ns, __ATOMIC_RELAXED);
}

void cpu_time_restore(struct cpu_time *t, unsigned index, uint64_t total)
{
    if (t->page && index < VCPUS_IN_PAGE)
        write_record(record_of(t, index), total);
}
