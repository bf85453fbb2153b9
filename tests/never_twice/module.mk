# The cluster's rules in simulated time: docs/cluster.md, "How it is tested". The simulator of Raft
# (tests/sim) lends its clock and its randomness.

NEVER_TWICE_SRCS := $(sort $(wildcard tests/never_twice/*.c)) tests/sim/events.c
NEVER_TWICE_CORE := $(wildcard cluster/records/*.c cluster/agent/agent.c cluster/agent/renewal.c cluster/manager/manager.c cluster/manager/declare.c cluster/manager/moves.c)
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

sim: $(B)/tests/never_twice/never_twice $(B)/tests/never_twice/never_twice_mutants

-include $(NEVER_TWICE_OBJS:.o=.d) $(NEVER_TWICE_MUTANT_OBJS:.o=.d)
