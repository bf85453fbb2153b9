# Programs for tests with real members; the tests themselves are tests/cluster/test_*.sh.

CLUSTER_TEST_PROGRAMS := $(B)/tests/cluster/history $(B)/tests/cluster/faulty_disk $(B)/tests/cluster/witness_check \
    $(B)/tests/cluster/proxy $(B)/tests/cluster/old_ca

$(B)/tests/cluster/history: $(B)/obj/tests/cluster/history.o $(B)/obj/tests/sim/linearize.o \
    $(B)/obj/tests/sim/events.o
$(B)/tests/cluster/faulty_disk: $(B)/obj/tests/cluster/faulty_disk.o
$(B)/tests/cluster/witness_check: $(B)/obj/tests/cluster/witness_check.o
$(B)/tests/cluster/proxy: $(B)/obj/tests/cluster/proxy.o
$(B)/tests/cluster/old_ca: $(B)/obj/tests/cluster/old_ca.o
$(CLUSTER_TEST_PROGRAMS): $(B)/libferry.a
	@mkdir -p $(@D)
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $(filter %.o,$^) $(B)/libferry.a $(LDLIBS)

cluster-tests: $(CLUSTER_TEST_PROGRAMS) $(B)/ferry $(B)/ferryd

-include $(CLUSTER_TEST_PROGRAMS:$(B)/%=$(B)/obj/%.d)
.PHONY: cluster-tests

# Three hosts in namespaces, a machine that moves, a host that is lost; ends by itself.
demo: setup-test
	@$(MAKE) $(PARALLEL) $(B)/ferry $(B)/ferryd $(B)/guest/testguest.elf cluster-tests
	@tests/cluster/demo.sh
.PHONY: demo
