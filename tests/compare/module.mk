# Programs that drive the peers of benchmarks.

# QEMU through libvirt's C API (needs libvirt-dev: scripts/setup bench).
LIBVIRT_LIBS := $(shell pkg-config --libs libvirt libvirt-qemu 2>/dev/null)

$(B)/tests/compare/libvirt_machine: $(B)/obj/tests/compare/libvirt_machine.o $(B)/libferry.a
	@mkdir -p $(@D)
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $^ $(LDLIBS) $(LIBVIRT_LIBS)

-include $(B)/obj/tests/compare/libvirt_machine.d
