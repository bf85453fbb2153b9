#include "vmm/boot/boot_image.h"

#include <string.h>

#include "base/units.h"
#include "vmm/boot/boot_plan.h"
#include "vmm/boot/elf_image.h"

#define KERNEL_FILE_LIMIT (UINT64_C(1) << 30)

int boot_image_check_sizes(uint64_t kernel_size, uint64_t initrd_size, uint64_t memory,
                           struct error *err)
{
    char size[32], present[32];
    if (kernel_size > KERNEL_FILE_LIMIT)
        return error_set(err, ENOEXEC, "the kernel's file has %s; no kernel has more than 1 GiB",
                         units_format_size(kernel_size, size, sizeof(size)));
    if (initrd_size > memory)
        return error_set(err, ENOMEM,
                         "no room for the initrd (%s) in the guest's memory of %s; give it more "
                         "with --memory",
                         units_format_size(initrd_size, size, sizeof(size)),
                         units_format_size(memory, present, sizeof(present)));
    return 0;
}

// What a file turned out to be, with its parsed headers.
struct recognised {
    struct boot_image_info info;
    struct elf_image elf;
    struct multiboot_header multiboot;
};

static int recognise_elf(const struct boot_images *images, struct recognised *r, struct error *err)
{
    int rc = elf_image_parse(&r->elf, images->kernel, images->kernel_size, err);
    if (rc < 0)
        return rc;
    r->info.lives_at_cpl3 = r->elf.lives_at_cpl3;
    if (r->elf.has_pvh_entry) {
        r->info.protocol = BOOT_PVH;
        r->info.protocol_name = "PVH";
        if (!elf_image_covers(&r->elf, r->elf.pvh_entry))
            return error_set(err, ENOEXEC, "its PVH entry 0x%x is in no ELF segment",
                             r->elf.pvh_entry);
    }
    return 0;
}

static int recognise(const struct boot_images *images, struct recognised *r, struct error *err)
{
    memset(r, 0, sizeof(*r));
    if (boot_linux_is(images)) {
        r->info.protocol = BOOT_LINUX;
        r->info.protocol_name = "Linux 64-bit";
        return boot_linux_check(images, err);
    }
    bool is_elf = elf_image_is(images->kernel, images->kernel_size);
    if (is_elf) {
        int rc = recognise_elf(images, r, err);
        if (rc < 0 || r->info.protocol_name)
            return rc;
    }
    if (boot_multiboot_find(images, &r->multiboot)) {
        r->info.protocol = BOOT_MULTIBOOT;
        r->info.protocol_name = "multiboot";
        return boot_multiboot_check(images, &r->multiboot, is_elf ? &r->elf : NULL, err);
    }
    return error_set(err, ENOEXEC,
                     "not a kernel this version knows (bzImage with 64-bit entry, ELF with PVH "
                     "note, multiboot)");
}

int boot_image_probe(const struct boot_images *images, struct boot_image_info *info,
                     struct error *err)
{
    struct recognised r;
    int rc = recognise(images, &r, err);
    if (rc < 0)
        return error_prefix(err, "kernel '%s'", images->kernel_name);
    *info = r.info;
    return 0;
}

int boot_image_load(const struct boot_images *images, struct guest_memory *memory, uint64_t rsdp,
                    struct boot_entry *entry, struct error *err)
{
    struct recognised r;
    struct boot_plan plan;
    memset(entry, 0, sizeof(*entry));
    int rc = recognise(images, &r, err);
    if (rc == 0) {
        entry->lives_at_cpl3 = r.info.lives_at_cpl3;
        entry->protocol_name = r.info.protocol_name;
        boot_plan_init(&plan, images, memory);
        if (r.info.protocol == BOOT_LINUX)
            rc = boot_linux_load(&plan, rsdp, entry, err);
        else if (r.info.protocol == BOOT_PVH)
            rc = boot_pvh_load(&plan, &r.elf, rsdp, entry, err);
        else
            rc = boot_multiboot_load(&plan, &r.multiboot, r.elf.bytes ? &r.elf : NULL, entry, err);
    }
    return rc < 0 ? error_prefix(err, "kernel '%s'", images->kernel_name) : 0;
}
