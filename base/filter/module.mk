# The system call filters: compiled by a program that runs at build time, to a C header.

FILTER_COMPILER := $(B)/gen/base/filter/compile
FILTER_HEADER := $(B)/gen/base/filter/filters.h

# For this machine, whatever flavour ferry itself is built in.
$(FILTER_COMPILER): base/filter/compile_main.c base/filter/thread_filter.h base/filter/module.mk
	@mkdir -p $(@D)
	@echo "CC   $<"
	$(Q)gcc $(STD) -I. $(WARN) -O1 -o $@ $< $$(pkg-config --cflags --libs libseccomp)

$(FILTER_HEADER): $(FILTER_COMPILER)
	@echo "BPF  $@"
	$(Q)$(FILTER_COMPILER) >$@.new && mv $@.new $@

$(B)/obj/base/filter/thread_filter.o: $(FILTER_HEADER)
