# Load generators of the benchmarks.

NGHTTP2_LIBS := $(shell pkg-config --libs libnghttp2 2>/dev/null)

$(B)/tests/bench/store_load: $(B)/obj/tests/bench/store_load.o $(B)/libferry.a
	@mkdir -p $(@D)
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $^ $(LDLIBS) $(NGHTTP2_LIBS)

-include $(B)/obj/tests/bench/store_load.d

# Arrivals at a simulated cluster (docs/placement.md).
$(B)/tests/bench/placement_sim: $(B)/obj/tests/bench/placement_sim.o $(B)/libferry.a
	@mkdir -p $(@D)
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $^ $(LDLIBS)
placement-sim: $(B)/tests/bench/placement_sim

-include $(B)/obj/tests/bench/placement_sim.d
.PHONY: placement-sim
