// Whether ring 0 runs natively. A KVM may keep guests de-privileged and emulate what they do in
// ring 0; nothing that it advertises says so, but its speed does: an emulator does some millions of
// instructions a second, a CPU (even one in an emulated host) far more.
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "vmm/doctor.h"

enum {
    MEMORY_SIZE = 0x8000,
    CODE = 0x1000,
    PML4 = 0x2000,
    PDPT = 0x3000,
    PD = 0x4000,
    LOOPS = 20000, // of two instructions each: 20 ms where they are emulated
    ATTEMPTS = 5,  // the best counts, since the host may be busy
    DONE_PORT = 0xf4,
};

// Between what was seen of an emulator (2.5) and of a CPU in an emulated host (above 100).
static const double NATIVE_MIPS = 15;

struct probe {
    int vm_fd, vcpu_fd;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
};

static void probe_close(struct probe *probe)
{
    if (probe->run)
        munmap(probe->run, probe->run_size);
    if (probe->vcpu_fd >= 0)
        close(probe->vcpu_fd);
    if (probe->vm_fd >= 0)
        close(probe->vm_fd);
    if (probe->memory)
        munmap(probe->memory, MEMORY_SIZE);
}

static int probe_open(struct probe *probe, int kvm_fd, struct error *err)
{
    *probe = (struct probe){.vm_fd = -1, .vcpu_fd = -1};
    void *memory =
        mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return error_set_errno(err, errno, "memory for a trial VM");
    probe->memory = memory;
    probe->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
    if (probe->vm_fd < 0)
        return error_set_errno(err, errno, "KVM makes no VM (KVM_CREATE_VM)");
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_SIZE,
                                                 .userspace_addr = (uintptr_t)memory};
    // Old Intel CPUs run real mode with these; elsewhere it does nothing.
    ioctl(probe->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000UL);
    if (ioctl(probe->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0)
        return error_set_errno(err, errno, "KVM takes no memory (KVM_SET_USER_MEMORY_REGION)");
    probe->vcpu_fd = ioctl(probe->vm_fd, KVM_CREATE_VCPU, 0);
    int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (probe->vcpu_fd < 0 || size < 0)
        return error_set_errno(err, errno, "KVM makes no vCPU (KVM_CREATE_VCPU)");
    void *run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, probe->vcpu_fd, 0);
    if (run == MAP_FAILED)
        return error_set_errno(err, errno, "mapping a vCPU");
    probe->run = run;
    probe->run_size = (size_t)size;
    return 0;
}

static void write_code(uint8_t *memory)
{
    static const uint8_t code[] = {
        0xff, 0xc9,      // 1: dec %ecx
        0x75, 0xfc,      //    jnz 1b
        0xe6, DONE_PORT, //    out %al, $DONE_PORT
        0xeb, 0xf8,      //    jmp 1b
    };
    memcpy(memory + CODE, code, sizeof(code));
    bytes_put_u64(memory + PML4, PDPT | 3);
    bytes_put_u64(memory + PDPT, PD | 3);
    bytes_put_u64(memory + PD, 0x83); // present, writable, 2 MiB
}

static struct kvm_segment segment(uint8_t type, bool code)
{
    return (struct kvm_segment){
        .limit = 0xffffffff,
        .selector = code ? 8 : 16,
        .type = type,
        .present = 1,
        .s = 1,
        .g = 1,
        .l = code,
        .db = !code,
    };
}

// 64-bit mode at CPL 0, since real mode is emulated on some CPUs that run everything else.
static int set_registers(const struct probe *probe)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = CODE, .rcx = LOOPS, .rflags = 2};
    if (ioctl(probe->vcpu_fd, KVM_GET_SREGS, &sregs) != 0)
        return -errno;
    sregs.cs = segment(0xb, true);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(0x3, false);
    sregs.cr3 = PML4;
    sregs.cr4 = 0x20;       // PAE
    sregs.cr0 = 0x80000011; // PG, ET, PE
    sregs.efer = 0x500;     // LMA, LME
    if (ioctl(probe->vcpu_fd, KVM_SET_SREGS, &sregs) != 0 ||
        ioctl(probe->vcpu_fd, KVM_SET_REGS, &regs) != 0)
        return -errno;
    return 0;
}

static int run_once(const struct probe *probe, uint64_t *ns, struct error *err)
{
    int r = set_registers(probe);
    if (r)
        return error_set_errno(err, -r, "setting the registers of a trial vCPU");
    uint64_t start = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    while (ioctl(probe->vcpu_fd, KVM_RUN, 0) != 0) {
        if (errno != EINTR && errno != EAGAIN)
            return error_set_errno(err, errno, "KVM runs no vCPU (KVM_RUN)");
    }
    *ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - start;
    if (probe->run->exit_reason != KVM_EXIT_IO || probe->run->io.port != DONE_PORT)
        return error_set(err, EIO, "a trial vCPU stopped for reason %u instead of at its end",
                         probe->run->exit_reason);
    return 0;
}

int doctor_ring0_measure(int kvm_fd, double *mips, struct error *err)
{
    struct probe probe;
    int r = probe_open(&probe, kvm_fd, err);
    uint64_t best = UINT64_MAX;
    if (!r && probe.memory)
        write_code(probe.memory);
    for (int i = 0; i < ATTEMPTS && !r; i++) {
        uint64_t ns = 0;
        r = run_once(&probe, &ns, err);
        if (!r && ns < best)
            best = ns;
    }
    probe_close(&probe);
    if (!r)
        *mips = 2.0 * LOOPS * 1000 / (double)(best ? best : 1);
    return r;
}

int doctor_ring0_is_native(int kvm_fd, const struct runtime_dir *dir, bool *native,
                           struct error *err)
{
    static const char *const words[] = {"emulated", "native"};
    char known[16];
    if (dir && runtime_dir_recall(dir, "ring0", known, sizeof(known))) {
        for (int i = 0; i < 2; i++) {
            if (strcmp(known, words[i]) == 0) {
                *native = i;
                return 0;
            }
        }
    }
    double mips;
    int r = doctor_ring0_measure(kvm_fd, &mips, err);
    if (r)
        return error_prefix(err, "trying this host's KVM");
    *native = mips > NATIVE_MIPS;
    if (dir)
        runtime_dir_remember(dir, "ring0", words[*native]);
    return 0;
}
