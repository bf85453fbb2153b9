// The way from image files to a vCPU that is about to run their first instruction.
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/boot_image.h"
#include "vmm/machine_internal.h"

// A file's bytes in private memory: a mapping of the file itself could fault when somebody cuts it.
struct image {
    uint8_t *bytes;
    size_t size;
};

static void image_free(struct image *image)
{
    if (image->bytes)
        munmap(image->bytes, image->size);
    *image = (struct image){0};
}

// Fills in image->size, and nothing else.
static int image_look(struct image *image, int fd, const char *what, const char *path,
                      struct error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return error_set_errno(err, errno, "%s '%s'", what, path);
    if (!S_ISREG(st.st_mode) || st.st_size <= 0)
        return error_set(err, ENOEXEC, "%s '%s': not a file, or empty", what, path);
    image->size = (size_t)st.st_size;
    return 0;
}

static int image_read(struct image *image, int fd, const char *what, const char *path,
                      struct error *err)
{
    image->bytes =
        mmap(NULL, image->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (image->bytes == MAP_FAILED) {
        image->bytes = NULL;
        return error_set_errno(err, errno, "%s '%s': no memory to read it", what, path);
    }
    for (size_t done = 0; done < image->size;) {
        ssize_t n = pread(fd, image->bytes + done, image->size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int code = n < 0 ? errno : EIO;
            image_free(image);
            return error_set_errno(err, code, "reading %s '%s'", what, path);
        }
        done += (size_t)n;
    }
    return 0;
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool code, bool long_mode)
{
    return (struct kvm_segment){
        .base = 0,
        .limit = 0xffffffff,
        .selector = selector,
        .type = type,
        .present = 1,
        .s = 1,
        .g = 1,
        .l = code && long_mode,
        .db = !(code && long_mode),
    };
}

// The register state that struct boot_entry describes.
static int set_entry(const struct vcpu *v, const struct boot_entry *entry, struct error *err)
{
    bool long_mode = entry->mode == BOOT_LONG_MODE;
    struct kvm_sregs sregs = v->reset_state.sregs;
    sregs.cs = flat_segment(entry->code_selector, 0xb, true, long_mode);
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
        flat_segment(entry->data_selector, 0x3, false, long_mode);
    sregs.tr = (struct kvm_segment){
        .limit = 0x67, .selector = entry->task_selector, .type = 0xb, .present = 1};
    sregs.ldt = (struct kvm_segment){.type = 2, .unusable = 1};
    sregs.gdt.base = entry->gdt_base;
    sregs.gdt.limit = entry->gdt_limit;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = entry->cr0;
    sregs.cr3 = entry->cr3;
    sregs.cr4 = entry->cr4;
    sregs.efer = entry->efer;
    struct kvm_regs regs = {
        .rip = entry->rip,
        .rsp = entry->rsp,
        .rax = entry->rax,
        .rbx = entry->rbx,
        .rsi = entry->rsi,
        .rflags = 2,
    };
    if (ioctl(v->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(v->fd, KVM_SET_REGS, &regs) < 0)
        return error_set_errno(err, errno, "setting the registers of the first vCPU");
    return 0;
}

static int load(struct machine *m, const struct image *kernel, const struct image *initrd,
                struct error *err)
{
    uint32_t apic_ids[MACHINE_CPUS_LIMIT];
    for (unsigned i = 0; i < m->config.cpus; i++)
        apic_ids[i] = i;
    struct acpi_tables_config tables = {.cpus = m->config.cpus, .apic_ids = apic_ids};
    uint64_t rsdp;
    int rc = acpi_tables_write(&tables, &m->ram.memory, &rsdp, err);
    if (rc < 0)
        return rc;
    struct boot_images images = {
        .kernel = kernel->bytes,
        .kernel_size = kernel->size,
        .kernel_name = m->config.kernel,
        .initrd = initrd->bytes,
        .initrd_size = initrd->size,
        .initrd_name = m->config.initrd,
        .command_line = m->config.append,
    };
    struct boot_entry entry;
    rc = boot_image_load(&images, &m->ram.memory, rsdp, &entry, err);
    if (rc < 0)
        return rc;
    return set_entry(&m->vcpus.list[0], &entry, err);
}

int machine_boot(struct machine *m, struct error *err)
{
    struct image kernel = {0}, initrd = {0};
    bool has_initrd = m->files.initrd_fd >= 0;
    int rc = image_look(&kernel, m->files.kernel_fd, "kernel", m->config.kernel, err);
    if (rc == 0 && has_initrd)
        rc = image_look(&initrd, m->files.initrd_fd, "initrd", m->config.initrd, err);
    if (rc == 0) {
        rc = boot_image_check_sizes(kernel.size, initrd.size, guest_memory_size(&m->ram.memory),
                                    err);
        if (rc < 0)
            error_prefix(err, "kernel '%s'", m->config.kernel);
    }
    if (rc == 0)
        rc = image_read(&kernel, m->files.kernel_fd, "kernel", m->config.kernel, err);
    if (rc == 0 && has_initrd)
        rc = image_read(&initrd, m->files.initrd_fd, "initrd", m->config.initrd, err);
    if (rc == 0)
        rc = load(m, &kernel, &initrd, err);
    image_free(&initrd);
    image_free(&kernel);
    return rc;
}
