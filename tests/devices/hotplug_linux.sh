#!/bin/sh
# needs: linux
# Stock Linux takes and gives up disks and a network card by ACPI hot plug, through two machines' lives.
. tests/boot/linux_lib.sh
tap=ferryh$$

type_line() { printf '%s\n' "$2" | socat -u - "UNIX-CONNECT:$FERRY_RUNTIME_DIR/$1/console.sock"; }

# There is no udev in this guest: what has no device at the start is loaded by hand.
script='modprobe -a virtio_blk virtio_net; echo ready; while read -r line; do eval "$line"; done'
truncate -s 16M "$work/a.img"
linux plug "ferry.mode=cmd64=$(echo "$script" | base64 | tr -d '\n') console=ttyS0"
check plug "Linux starts without a disk" wait_line plug '^ready'
check plug "a disk is added" ferry device add plug --disk "$work/a.img"
type_line plug 'until [ -b /dev/vda ]; do sleep 1; done; dd if=/dev/urandom of=/tmp/p bs=1M count=4 2>/dev/null; dd if=/tmp/p of=/dev/vda bs=1M oflag=direct 2>/dev/null && sync && echo sum $(md5sum </tmp/p)'
check plug "its driver takes it and writes to it" wait_line plug '^sum '
sum=$(log plug | sed -n 's/^sum \([0-9a-f]*\).*/\1/p' | tail -n 1)
same() { [ "$(head -c 4194304 "$work/a.img" | md5sum | cut -d' ' -f1)" = "$sum" ]; }
check plug "the image has what was written" same
check plug "it is made larger" ferry device resize plug disk0 24M
type_line plug 'until [ $(cat /sys/block/vda/size) = 49152 ]; do sleep 1; done; echo larger'
check plug "and the guest knows" wait_line plug '^larger'
check plug "the guest gives it up" ferry device remove plug disk0 --timeout 100s
type_line plug '[ -b /dev/vda ] || echo gone'
check plug "and has it no more" wait_line plug '^gone'
if ip tuntap add name "$tap" mode tap 2>/dev/null || tunctl -t "$tap" >/dev/null 2>&1; then
    check plug "a network card is added" ferry device add plug --net "tap=$tap"
    type_line plug 'until ls -d /sys/class/net/e* >/dev/null 2>&1; do sleep 1; done; echo card'
    check plug "its driver takes it" wait_line plug '^card'
    check plug "and gives it up" ferry device remove plug net0 --timeout 100s
else
    echo "not ok - a tap can be made"
    failed=1
fi
check plug "a disk comes again" ferry device add plug --disk "$work/a.img"
type_line plug 'until [ -b /dev/vda ]; do sleep 1; done; echo again $(dd if=/dev/vda bs=1M count=4 2>/dev/null | md5sum)'
check plug "with what was written" wait_line plug "^again $sum"
type_line plug 'for slot in /sys/bus/pci/slots/*; do [ -e /sys/bus/pci/devices/$(cat $slot/address).0/virtio*/block ] && echo 0 >$slot/power; done; [ -b /dev/vda ] || echo ejected'
check plug "the guest ejects it by itself" wait_line plug '^ejected'
without() { ferry device list plug --format json | jq -e '[.[] | select(.id == "disk0")] == []' >/dev/null; }
check plug "and the machine has it no more" without
exit $failed
