#include "vmm/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/layout.h"

static const struct {
    int capability;
    const char *name;
    const char *purpose;
} required[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", "guest RAM"},
    {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM", "ROM"},
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP", "in-kernel interrupt controllers"},
    {KVM_CAP_PIT2, "KVM_CAP_PIT2", "the in-kernel timer"},
    {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING", "message-signalled interrupts"},
    {KVM_CAP_IRQFD, "KVM_CAP_IRQFD", "interrupts from I/O threads"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", "doorbells of virtio devices"},
    {KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH", "doorbells of virtio devices"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", "the CPU model"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE", "more than one vCPU"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", "pausing a vCPU"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS", "reset and saving of vCPUs"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS", "reset and saving of vCPUs"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE", "reset and saving of vCPUs"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK", "kvmclock"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR", "real mode"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR", "real mode"},
};

static int check_extension(int fd, int capability)
{
    int rc = ioctl(fd, KVM_CHECK_EXTENSION, capability);
    return rc < 0 ? 0 : rc;
}

int kvm_check(struct kvm *kvm, int kvm_fd, struct error *err)
{
    *kvm = (struct kvm){.fd = kvm_fd, .vm_fd = -1};
    int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);
    if (version < 0)
        return error_set_errno(err, errno, "asking KVM for its version (is this really /dev/kvm?)");
    if (version != KVM_API_VERSION)
        return error_set(err, ENOTSUP, "KVM's API version is %d, but ferry needs %d", version,
                         KVM_API_VERSION);
    for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++) {
        if (check_extension(kvm_fd, required[i].capability) == 0)
            return error_set(err, ENOTSUP,
                             "this host's KVM lacks %s (needed for %s); a newer kernel may have it",
                             required[i].name, required[i].purpose);
    }
    int run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < (int)sizeof(struct kvm_run))
        return error_set(err, ENOTSUP, "KVM reports a vCPU page of %d bytes, which is too small",
                         run_size);
    kvm->run_size = (size_t)run_size;
    int xsave_size = check_extension(kvm_fd, KVM_CAP_XSAVE2);
    int vcpus = check_extension(kvm_fd, KVM_CAP_MAX_VCPUS);
    int slots = check_extension(kvm_fd, KVM_CAP_NR_MEMSLOTS);
    kvm->abilities = (struct kvm_abilities){
        .tsc_deadline = check_extension(kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER),
        .x2apic_api = check_extension(kvm_fd, KVM_CAP_X2APIC_API),
        .binary_stats = check_extension(kvm_fd, KVM_CAP_BINARY_STATS_FD),
        .kvmclock_ctrl = check_extension(kvm_fd, KVM_CAP_KVMCLOCK_CTRL),
        .exception_payload = check_extension(kvm_fd, KVM_CAP_EXCEPTION_PAYLOAD),
        .xcrs = check_extension(kvm_fd, KVM_CAP_XCRS),
        .xsave2 = xsave_size > 0,
        .tsc_control = check_extension(kvm_fd, KVM_CAP_TSC_CONTROL),
        .vcpus = vcpus > 0 ? (uint32_t)vcpus : 4, // the documented default of an old KVM
        .slots = slots > 0 ? (uint32_t)slots : 32,
        .xsave_size = xsave_size > (int)sizeof(struct kvm_xsave) ? (uint32_t)xsave_size
                                                                 : sizeof(struct kvm_xsave),
    };
    return 0;
}

int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *argument)
{
    int rc;
    do {
        rc = ioctl(kvm->vm_fd, request, argument);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : rc;
}

int kvm_create_vm(struct kvm *kvm, struct error *err)
{
    // EINTR: the kernel may break off the creation of a VM for a signal.
    do {
        kvm->vm_fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
    } while (kvm->vm_fd < 0 && errno == EINTR);
    if (kvm->vm_fd < 0)
        return error_set_errno(err, errno, "creating a VM");
    uint64_t identity = LAYOUT_KVM_IDENTITY;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    int rc = kvm_vm_ioctl(kvm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    if (rc == 0)
        rc = kvm_vm_ioctl(kvm, KVM_SET_TSS_ADDR, (void *)LAYOUT_KVM_TSS);
    if (rc == 0)
        rc = kvm_vm_ioctl(kvm, KVM_CREATE_IRQCHIP, NULL);
    if (rc == 0)
        rc = kvm_vm_ioctl(kvm, KVM_CREATE_PIT2, &pit);
    if (rc < 0) {
        kvm_close(kvm);
        return error_set_errno(err, -rc, "creating the VM's interrupt controllers and timer");
    }
    return 0;
}

void kvm_close(struct kvm *kvm)
{
    if (kvm->vm_fd >= 0)
        close(kvm->vm_fd);
    kvm->vm_fd = -1;
}

int kvm_set_slot(const struct kvm *kvm, uint32_t slot, uint32_t flags, uint64_t gpa, void *hva,
                 uint64_t size)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = flags,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = (uintptr_t)hva,
    };
    return kvm_vm_ioctl(kvm, KVM_SET_USER_MEMORY_REGION, &region);
}
