# The cluster's rules in simulated time: docs/cluster.md, "How it is tested". The simulator of Raft
# (tests/sim) lends its clock and its randomness.

NEVER_TWICE_SRCS := $(sort $(wildcard tests/never_twice/*.c)) tests/sim/events.c
NEVER_TWICE_CORE := base/cluster_mutant.c $(wildcard cluster/records/*.c cluster/agent/agent.c cluster/agent/renewal.c cluster/manager/manager.c cluster/manager/declare.c cluster/manager/moves.c)
NEVER_TWICE_OBJS := $(NEVER_TWICE_SRCS:%.c=$(B)/obj/%.o)
NEVER_TWICE_MUTANT_OBJS := $(patsubst %.c,$(B)/obj/cluster_mutants/%.o,$(NEVER_TWICE_SRCS) $(NEVER_TWICE_CORE))

$(B)/tests/never_twice/never_twice: $(NEVER_TWICE_OBJS) $(B)/libferry.a
$(B)/tests/never_twice/never_twice_mutants: $(NEVER_TWICE_MUTANT_OBJS) $(B)/libferry.a
$(B)/tests/never_twice/never_twice $(B)/tests/never_twice/never_twice_mutants:
	@mkdir -p $(@D)
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $^ $(LDLIBS)

$(B)/obj/cluster_mutants/%.o: %.c
	@mkdir -p $(@D)
	@echo "CC   $< (mutants)"
	$(Q)$(CC) $(CPPFLAGS) -DCLUSTER_MUTANTS $(CFLAGS) -MMD -MP -c -o $@ $<

# ferry and ferryd with the same mutants, for tests with real processes: tests/cluster/mutants.py.
MUTANT_PROGRAM_SRCS := $(NEVER_TWICE_CORE) cluster/agent/host_lease.c cluster/agent/agent_driver.c \
    vmm/machine_lease.c vmm/machine_disks.c vmm/vcpu.c
mutant_objs = $(patsubst %.c,$(B)/obj/cluster_mutants/%.o,$(MUTANT_PROGRAM_SRCS) $(1))
MUTANT_PROGRAMS := $(B)/mutants/ferry $(B)/mutants/ferryd

$(B)/mutants/ferry: $(call mutant_objs,cli/main.c) $(filter-out $(B)/obj/cli/main.o,$(CLI_OBJS)) $(B)/libferry.a
$(B)/mutants/ferryd: $(call mutant_objs,cluster/ferryd_main.c) $(B)/libferry.a
$(MUTANT_PROGRAMS):
	@mkdir -p $(@D)
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $^ $(LDLIBS)

cluster-mutants: $(MUTANT_PROGRAMS) cluster-tests
.PHONY: cluster-mutants

sim: $(B)/tests/never_twice/never_twice $(B)/tests/never_twice/never_twice_mutants

-include $(NEVER_TWICE_OBJS:.o=.d) $(NEVER_TWICE_MUTANT_OBJS:.o=.d) \
    $(patsubst %.o,%.d,$(call mutant_objs,cli/main.c cluster/ferryd_main.c))
