# The stock Linux guest: kernel and initramfs from Debian packages (see scripts/linux-guest).

$(BUILD_ROOT)/linux/vmlinuz $(BUILD_ROOT)/linux/initramfs.cpio.gz: linux-guest
	@:

linux-guest:
	@scripts/linux-guest

.PHONY: linux-guest
