# The test guest: one freestanding ELF64 that boots by PVH and multiboot, and the same without the multiboot header for
# loaders that would prefer that one (QEMU). Built without the hardening flags of the house: they need a C library.

GUEST_DIR := $(BUILD_ROOT)/guest
GUEST_SRCS := $(sort $(wildcard guest/*.c guest/lib/*.c guest/drivers/*.c guest/tests/*.c))
GUEST_ASMS := guest/boot.S guest/stub.S
GUEST_OBJS := $(GUEST_SRCS:%.c=$(GUEST_DIR)/obj/%.o) $(GUEST_ASMS:%.S=$(GUEST_DIR)/obj/%.o)
GUEST_MULTIBOOT := $(GUEST_DIR)/obj/guest/multiboot.o
GUEST_FLAGS := -I. -std=gnu11 -O2 -g -ffreestanding -fno-pic -fno-pie -mcmodel=small -mno-avx \
	-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing
# What runs in ring 0: no SSE registers, which the stub doesn't save, and no red zone below its stack.
GUEST_RING0_FLAGS := -mgeneral-regs-only -mno-red-zone
GUEST_RING0_OBJS := $(addprefix $(GUEST_DIR)/obj/guest/,lib/privileged.o lib/exception.o lib/format.o \
	drivers/serial.o)

all: $(GUEST_DIR)/testguest.elf $(GUEST_DIR)/testguest-pvh.elf

guest: $(GUEST_DIR)/testguest.elf $(GUEST_DIR)/testguest-pvh.elf

$(GUEST_RING0_OBJS): GUEST_EXTRA := $(GUEST_RING0_FLAGS)
# These are what the compiler would otherwise turn back into calls of themselves.
$(GUEST_DIR)/obj/guest/lib/memory.o: GUEST_EXTRA := -fno-tree-loop-distribute-patterns

$(GUEST_DIR)/obj/%.o: %.c guest/module.mk
	@mkdir -p $(@D)
	@echo "CC   $< (guest)"
	$(Q)gcc $(GUEST_FLAGS) $(WARN) $(GUEST_EXTRA) -MMD -MP -c -o $@ $<

$(GUEST_DIR)/obj/%.o: %.S guest/module.mk
	@mkdir -p $(@D)
	@echo "AS   $< (guest)"
	$(Q)gcc -I. -g -MMD -MP -c -o $@ $<

# The copy that boots has no debug information, so that a loader reads no more than it must.
$(GUEST_DIR)/%.elf: $(GUEST_DIR)/%.debug
	$(Q)objcopy --strip-debug $< $@

$(GUEST_DIR)/testguest.debug: $(GUEST_OBJS) $(GUEST_MULTIBOOT) guest/guest.ld
	@echo "LINK $(@:.debug=.elf)"
	$(Q)ld -n --no-warn-rwx-segments -z noexecstack -T guest/guest.ld -o $@ $(filter %.o,$^)

$(GUEST_DIR)/testguest-pvh.debug: $(GUEST_OBJS) guest/guest.ld
	@echo "LINK $(@:.debug=.elf)"
	$(Q)ld -n --no-warn-rwx-segments -z noexecstack -T guest/guest.ld -o $@ $(filter %.o,$^)

.PRECIOUS: $(GUEST_DIR)/%.debug
.PHONY: guest
-include $(GUEST_OBJS:.o=.d) $(GUEST_MULTIBOOT:.o=.d)
