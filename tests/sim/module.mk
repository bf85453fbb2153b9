# The deterministic simulator of the cluster: docs/raft-simulator.md.
#
#   make sim           builds its programs
#   make sim-test      the share of `make test` (TAP)
#   make sim-soak      the share of `make soak`; SIM_SEEDS and SIM_FROM say which seeds
#   make sim-bench     one line of JSON

SIM_SRCS := $(filter-out tests/sim/main.c tests/sim/mutants.c tests/sim/adversary.c \
              tests/sim/wal_crashes.c tests/sim/wal_model.c tests/sim/disk_files.c,\
              $(filter-out tests/sim/test_%,$(sort $(wildcard tests/sim/*.c))))
SIM_OBJS := $(SIM_SRCS:%.c=$(B)/obj/%.o)
SIM_TESTS := $(patsubst %.c,$(B)/%,$(sort $(wildcard tests/sim/test_*.c)))

# The core once more, with every deliberately broken variant compiled in; all of it in a tree of its own.
SIM_MUTANT_SRCS := $(SIM_SRCS) $(wildcard cluster/raft/*.c) base/bytes.c
SIM_MUTANT_OBJS := $(SIM_MUTANT_SRCS:%.c=$(B)/obj/mutants/%.o)

SIM_PROGRAMS := $(B)/tests/sim/raft_sim $(B)/tests/sim/raft_sim_mutants $(B)/tests/sim/raft_mutants \
                $(B)/tests/sim/raft_adversary $(B)/tests/sim/wal_crashes $(SIM_TESTS)

$(B)/tests/sim/raft_sim: $(B)/obj/tests/sim/main.o
$(B)/tests/sim/raft_adversary: $(B)/obj/tests/sim/adversary.o
$(B)/tests/sim/wal_crashes: $(B)/obj/tests/sim/wal_crashes.o $(B)/obj/tests/sim/wal_model.o \
    $(B)/obj/tests/sim/disk_files.o
$(SIM_TESTS): $(B)/tests/sim/%: $(B)/obj/tests/sim/%.o
$(B)/tests/sim/raft_sim $(B)/tests/sim/raft_adversary $(B)/tests/sim/wal_crashes $(SIM_TESTS): $(SIM_OBJS) $(B)/libferry.a
	@mkdir -p $(@D)
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $(filter %.o,$^) $(filter %.a,$^)

$(B)/tests/sim/raft_sim_mutants: $(B)/obj/mutants/tests/sim/main.o
$(B)/tests/sim/raft_mutants: $(B)/obj/mutants/tests/sim/mutants.o
$(B)/tests/sim/raft_sim_mutants $(B)/tests/sim/raft_mutants: $(SIM_MUTANT_OBJS)
	@mkdir -p $(@D)
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $^

$(B)/obj/mutants/%.o: %.c
	@mkdir -p $(@D)
	@echo "CC   $< (mutants)"
	$(Q)$(CC) $(CPPFLAGS) -DRAFT_MUTANTS $(CFLAGS) -MMD -MP -c -o $@ $<

sim: $(SIM_PROGRAMS)

sim-test: sim
	$(Q)for t in $(SIM_TESTS); do $$t || exit 1; done
	$(Q)$(B)/tests/sim/raft_sim --suite --seeds $(or $(SIM_SEEDS),4000)
	$(Q)$(B)/tests/sim/raft_mutants
	$(Q)$(B)/tests/sim/raft_adversary
	$(Q)$(B)/tests/sim/wal_crashes --suite

sim-soak: sim
	$(Q)$(B)/tests/sim/raft_sim --suite --from $(or $(SIM_FROM),1000000) --seeds $(or $(SIM_SEEDS),1000000)

sim-bench: sim
	$(Q)$(B)/tests/sim/raft_sim --bench

-include $(SIM_OBJS:.o=.d) $(SIM_MUTANT_OBJS:.o=.d) $(wildcard $(B)/obj/tests/sim/*.d $(B)/obj/mutants/tests/sim/*.d)
.PHONY: sim sim-test sim-soak sim-bench
