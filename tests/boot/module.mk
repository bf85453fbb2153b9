# The multiboot test kernel in the shapes that the protocol knows: ELF32 by its segments, ELF64 and a bare image by the
# address fields of the header.

BOOT_DIR := $(B)/tests/boot
BOOT_FLAGS := -m32 -march=i686 -std=gnu11 -Os -ffreestanding -fno-pic -fno-pie -fno-stack-protector -fcf-protection=none \
	-fno-asynchronous-unwind-tables -mgeneral-regs-only
BOOT_IMAGES := $(addprefix $(BOOT_DIR)/,multiboot32.elf multiboot64.elf multiboot.bin)

$(BOOT_DIR)/multiboot_kernel.o: tests/boot/multiboot_kernel.c tests/boot/module.mk
	@mkdir -p $(@D)
	@echo "CC   $<"
	$(Q)gcc $(BOOT_FLAGS) $(WARN) -c -o $@ $<

$(BOOT_DIR)/start_segments.o: tests/boot/multiboot_start.S
	@mkdir -p $(@D)
	$(Q)gcc -m32 -c -o $@ $<

$(BOOT_DIR)/start_addresses.o: tests/boot/multiboot_start.S
	@mkdir -p $(@D)
	$(Q)gcc -m32 -DADDRESS_FIELDS -c -o $@ $<

$(BOOT_DIR)/multiboot32.elf: $(BOOT_DIR)/start_segments.o $(BOOT_DIR)/multiboot_kernel.o tests/boot/multiboot.ld
	$(Q)ld -m elf_i386 -n --no-warn-rwx-segments -T tests/boot/multiboot.ld -o $@ $(filter %.o,$^)

$(BOOT_DIR)/addresses.elf: $(BOOT_DIR)/start_addresses.o $(BOOT_DIR)/multiboot_kernel.o tests/boot/multiboot.ld
	$(Q)ld -m elf_i386 -n --no-warn-rwx-segments -T tests/boot/multiboot.ld -o $@ $(filter %.o,$^)

$(BOOT_DIR)/multiboot64.elf: $(BOOT_DIR)/addresses.elf
	$(Q)objcopy -I elf32-i386 -O elf64-x86-64 $< $@

$(BOOT_DIR)/multiboot.bin: $(BOOT_DIR)/addresses.elf
	$(Q)objcopy -O binary $< $@

lab-tests: $(BOOT_IMAGES)
