# What processes share with each other there may be nonsense (vmm/sched/sched_policy.h): sums of it
# wrap, and nothing else follows from that.
$(B)/obj/vmm/sched/%.o: CFLAGS += -fwrapv
