# The lab's own test program: static, so that it depends on nothing that the lab might lack.

KVM_SMOKE := $(B)/tests/lab/kvm_smoke

$(KVM_SMOKE): tests/lab/kvm_smoke.c
	@mkdir -p $(@D)
	@echo "CC   $<"
	$(Q)$(CC) $(STD) $(WARN) -O2 -g -static -o $@ $<

lab-tests: $(KVM_SMOKE)

.PHONY: lab-tests
