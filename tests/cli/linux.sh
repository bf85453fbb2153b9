#!/bin/sh
# Stock Linux obeys the power button: `ferry stop` ends it by its own shutdown. Its crash is a crash.
# needs: linux
. "$(dirname "$0")/lib.sh"

says "Linux starts detached" 0 "lin" ferry run lin --detach --memory 256M \
    --kernel build/linux/vmlinuz --initrd build/linux/initramfs.cpio.gz --append "console=ttyS0 quiet ferry.mode=wait"
await sh -c 'ferry logs lin | grep -q "ferry-guest: ready"' || not_ok "it is ready" "$(ferry logs lin)"
says "stop" 0 "lin: stopped" ferry stop --timeout 5m lin
check "it switched itself off" jq -e '.reason == "power-off" and .exit_status == 0' "$FERRY_RUNTIME_DIR/lin/exit.json"
finish
