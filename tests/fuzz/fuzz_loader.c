// Kernel images of any bytes, with and without an initrd, into a small guest. Whatever loads must
// start inside of RAM.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "vmm/boot/boot_image.h"
#include "vmm/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAM_SIZE = 20 << 20 };

static struct guest_memory *memory(void)
{
    static struct guest_memory mem;
    if (mem.count == 0) {
        void *ram =
            mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        guest_memory_init(&mem);
        if (ram == MAP_FAILED || guest_memory_add(&mem, 0, ram, RAM_SIZE) < 0)
            abort();
        guest_memory_log_start(&mem);
    }
    return &mem;
}

// What the input can't say: the last byte chooses initrd and command line.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t initrd[5000] = {1};
    uint8_t choice = size > 0 ? data[size - 1] : 0;
    const struct boot_images images = {
        .kernel = data,
        .kernel_size = size,
        .kernel_name = "fuzz",
        .initrd = choice & 1 ? initrd : NULL,
        .initrd_size = choice & 1 ? sizeof(initrd) : 0,
        .initrd_name = "initrd",
        .command_line = choice & 2 ? "console=ttyS0" : "",
    };
    struct boot_image_info info;
    struct boot_entry entry;
    struct error err = {0};
    int probed = boot_image_probe(&images, &info, &err);
    int loaded = boot_image_load(&images, memory(), LAYOUT_ACPI_TABLES, &entry, &err);
    if (loaded == 0 && (probed != 0 || !guest_memory_slice(memory(), entry.rip, 1)))
        abort();
    if (loaded < 0 && (loaded != -err.code || !err.message[0]))
        abort();
    return 0;
}
