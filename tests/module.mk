# How the tests are built and run; `make test` prints TAP of each test program through tests/run.

UNIT_SRCS := $(sort $(shell find $(wildcard tests/unit) -name 'test_*.c'))
UNIT_BINS := $(UNIT_SRCS:%.c=$(B)/%)
# Files beside them that several tests share.
UNIT_HELPERS := $(sort $(filter-out $(UNIT_SRCS),$(wildcard tests/unit/*.c)))
UNIT_HELPER_OBJS := $(UNIT_HELPERS:%.c=$(B)/obj/%.o)
FUZZ_SRCS := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_BINS := $(FUZZ_SRCS:%.c=$(BUILD_ROOT)/fuzz/%)

CHECK_CFLAGS := $(shell pkg-config --cflags check 2>/dev/null)
CHECK_LIBS := $(shell pkg-config --libs check 2>/dev/null)

$(B)/obj/tests/unit/%.o: CPPFLAGS += $(CHECK_CFLAGS)

$(B)/libunit.a: $(UNIT_HELPER_OBJS)
	@rm -f $@
	$(Q)ar rcs $@ $^

# Fakes that answer for parts of the library are linked as objects, before it.
UNIT_MIGRATE_FAKES := $(B)/obj/tests/unit/migrate/fake_sides.o
$(filter $(B)/tests/unit/test_migrate%,$(UNIT_BINS)): $(UNIT_MIGRATE_FAKES)

$(UNIT_BINS): $(B)/%: $(B)/obj/%.o $(B)/libunit.a $(B)/libferry.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(CHECK_LIBS) $(LDLIBS)

unit: $(UNIT_BINS)

ifeq ($(FLAVOUR),fuzz)
FUZZ_LINKED := $(FUZZ_SRCS:%.c=$(B)/%)
$(FUZZ_LINKED): $(B)/%: $(B)/obj/%.o $(B)/libunit.a $(B)/libferry.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS_fuzz) -o $@ $^ $(LDLIBS)
fuzz: $(FUZZ_LINKED)
else
fuzz:
	@$(MAKE) $(PARALLEL) FLAVOUR=fuzz fuzz
endif

-include $(UNIT_HELPER_OBJS:.o=.d) $(UNIT_MIGRATE_FAKES:.o=.d)
-include $(UNIT_SRCS:%.c=$(B)/obj/%.d) $(FUZZ_SRCS:%.c=$(B)/obj/%.d)
# What scripts of tests/cli preload or run.
CLI_TEST_PROGRAMS := $(B)/tests/cli/stop_before_run.so
$(B)/tests/cli/stop_before_run.so: tests/cli/stop_before_run.c
	@mkdir -p $(@D)
	@echo "CC   $< (shared)"
	$(Q)$(CC) $(STD) $(WARN) -O1 -g -fPIC -shared -o $@ $< -ldl
cli-tests: $(CLI_TEST_PROGRAMS)

# Everything that `make test` needs, in both flavours.
test-programs: all linux unit lab-tests fuzz cluster-tests sim cli-tests
	@$(MAKE) $(PARALLEL) FLAVOUR=asan unit

test: setup-test
	@$(MAKE) $(PARALLEL) test-programs
	@tests/run

soak: setup-test
	@$(MAKE) $(PARALLEL) test-programs cluster-mutants
	@tests/run --soak

bench: setup-bench
	@$(MAKE) $(PARALLEL) all sim placement-sim cluster-tests $(B)/tests/bench/store_load $(B)/tests/compare/libvirt_machine
	@tests/bench/run

.PHONY: unit fuzz cli-tests test-programs test soak bench
