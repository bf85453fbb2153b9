/*
 * Is /dev/kvm a working one that runs ring 0 natively? Creates a machine of one page, runs four
 * real-mode instructions and expects the exit of an OUT. Says in TAP what it found. Static and free
 * of ferry's code on purpose: when it fails in the lab, the lab is broken, not ferry.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CODE_ADDRESS = 0x1000, CODE_SIZE = 0x1000, PORT = 0x3f8, A = 20, B = 22 };

/* mov $PORT, %dx; mov $A, %al; add $B, %al; out %al, (%dx); hlt */
static const uint8_t code[] = {0xba, PORT & 0xff, PORT >> 8, 0xb0, A, 0x04, B, 0xee, 0xf4};

static const char *step;

static int tried(const char *what, int result)
{
    step = what;
    return result;
}

/* Returns 0, or -1 with `step` naming what failed and errno set. */
static int smoke_run(struct kvm_run **shared)
{
    int kvm = tried("open /dev/kvm", open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (kvm < 0)
        return -1;
    int vm = tried("KVM_CREATE_VM", ioctl(kvm, KVM_CREATE_VM, 0));
    if (vm < 0)
        return -1;
    uint8_t *page =
        mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return tried("mmap of the guest's page", -1);
    memcpy(page, code, sizeof(code));
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = CODE_ADDRESS,
        .memory_size = CODE_SIZE,
        .userspace_addr = (uintptr_t)page,
    };
    if (tried("KVM_SET_USER_MEMORY_REGION", ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region)) < 0)
        return -1;
    int vcpu = tried("KVM_CREATE_VCPU", ioctl(vm, KVM_CREATE_VCPU, 0));
    if (vcpu < 0)
        return -1;
    int size = tried("KVM_GET_VCPU_MMAP_SIZE", ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    if (size < 0)
        return -1;
    *shared = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (*shared == MAP_FAILED)
        return tried("mmap of kvm_run", -1);

    struct kvm_sregs sregs;
    if (tried("KVM_GET_SREGS", ioctl(vcpu, KVM_GET_SREGS, &sregs)) < 0)
        return -1;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    if (tried("KVM_SET_SREGS", ioctl(vcpu, KVM_SET_SREGS, &sregs)) < 0)
        return -1;
    struct kvm_regs regs = {.rip = CODE_ADDRESS, .rflags = 2};
    if (tried("KVM_SET_REGS", ioctl(vcpu, KVM_SET_REGS, &regs)) < 0)
        return -1;
    return tried("KVM_RUN", ioctl(vcpu, KVM_RUN, 0));
}

int main(void)
{
    struct kvm_run *run = NULL;
    puts("1..1");
    if (smoke_run(&run) < 0) {
        printf("not ok 1 - /dev/kvm runs a real-mode guest\n# %s: %s\n", step, strerror(errno));
        return 1;
    }
    uint8_t value = *((uint8_t *)run + run->io.data_offset);
    if (run->exit_reason != KVM_EXIT_IO || run->io.port != PORT || value != A + B) {
        printf("not ok 1 - /dev/kvm runs a real-mode guest\n# exit reason %u, port %#x, value %u\n",
               run->exit_reason, run->io.port, value);
        return 1;
    }
    puts("ok 1 - /dev/kvm runs a real-mode guest");
    return 0;
}
