# The DSDT: compiled by iasl to a C array.

DSDT_HEADER := $(B)/gen/vmm/boot/dsdt.h

$(DSDT_HEADER): vmm/boot/dsdt.asl
	@mkdir -p $(@D)
	@echo "IASL $<"
	$(Q)iasl -we -tc -p $(@:.h=) $< >$(@:.h=.log) 2>&1 || { cat $(@:.h=.log) >&2; exit 1; }
	$(Q)sed 's/^unsigned char/static const unsigned char/' $(@:.h=.hex) >$@

$(B)/obj/vmm/boot/acpi_tables.o: $(DSDT_HEADER)
