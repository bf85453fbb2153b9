#!/bin/sh
# needs: linux
# Stock Linux tells of its panic by pvpanic: that is a crash, with its report, before the guest can reboot.
. tests/boot/linux_lib.sh

crashed() {
    ferry wait panic >"$work/end" 2>&1
    status=$?
    [ $status = 4 ] && jq -e '.reason == "crash" and (.crash_report | test("panicked"))' \
        "$FERRY_RUNTIME_DIR/panic/exit.json" >/dev/null && return 0
    reason="ended with status $status: $(cat "$work/end")"
    return 1
}

script='modprobe pvpanic-mmio && ls /sys/bus/platform/drivers/pvpanic-mmio | grep -q QEMU0001 && echo bound; echo c >/proc/sysrq-trigger'
linux panic "ferry.mode=cmd64=$(echo "$script" | base64 | tr -d '\n') console=ttyS0"
check panic "Linux's driver finds the panic device" wait_line panic '^bound'
check panic "its panic is a crash with status 4" crashed
exit $failed
