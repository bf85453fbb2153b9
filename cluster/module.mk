# The cluster's own program.
PROGRAMS += $(B)/ferryd

$(B)/ferryd: $(B)/obj/cluster/ferryd_main.o $(B)/libferry.a
	@echo "LINK $@"
	$(Q)$(CC) $(LDFLAGS_$(FLAVOUR)) -o $@ $< $(B)/libferry.a $(LDLIBS)

-include $(B)/obj/cluster/ferryd_main.d
