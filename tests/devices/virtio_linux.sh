#!/bin/sh
# needs: linux
# Stock Linux uses every virtio device: its own drivers read, write, verify, discard and transfer, by two vCPUs.
work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-virtio.XXXXXX")
export FERRY_RUNTIME_DIR="$work/run"
tap=ferry$$
failed=0
server=
finish() {
    # shellcheck disable=SC2086 # several numbers
    [ -z "$server" ] || kill $server 2>/dev/null
    ip link del "$tap" 2>/dev/null
    rm -rf "$work"
}
trap finish EXIT

result() {
    if [ "$1" = 0 ]; then
        echo "ok - $2"
    else
        echo "not ok - $2"
        failed=1
    fi
}

# The guest's half. Each line "check NAME" that it prints is one test; what is missing failed.
cat >"$work/script" <<'SCRIPT'
check() { echo "check $1"; }
cd /tmp

# Disk: what is written in many shapes, past the page cache, is what is read.
dd if=/dev/urandom of=pattern bs=1M count=24 2>/dev/null
dd if=pattern of=/dev/vda bs=1M 2>/dev/null && sync
for shape in "512 7 100" "1024 13 333" "4096 5 64" "12288 11 40" "1048576 3 4"; do
    set -- $shape # block size, first block, blocks
    dd if=/dev/urandom of=piece bs=$1 count=$3 2>/dev/null
    dd if=piece of=/dev/vda bs=$1 seek=$2 conv=notrunc oflag=direct 2>/dev/null || echo "direct write $1 failed"
    dd if=piece of=pattern bs=$1 seek=$2 conv=notrunc 2>/dev/null
done
sync
echo 3 >/proc/sys/vm/drop_caches
[ "$(dd if=/dev/vda bs=1M count=24 2>/dev/null | md5sum)" = "$(md5sum <pattern)" ] && check verify
# Several readers and writers at once.
for i in 0 1 2 3; do
    (dd if=pattern of=/dev/vda bs=64k skip=$((i * 96)) seek=$((i * 96)) count=96 oflag=direct conv=notrunc &
     dd if=/dev/vda of=/dev/null bs=4k skip=$((i * 1536)) count=500 iflag=direct; wait) 2>/dev/null &
done
wait
echo 3 >/proc/sys/vm/drop_caches
[ "$(dd if=/dev/vda bs=1M count=24 2>/dev/null | md5sum)" = "$(md5sum <pattern)" ] && check parallel
blkdiscard -o 1048576 -l 2097152 /dev/vda && [ "$(cat /sys/block/vda/queue/discard_max_bytes)" -gt 0 ] && check discard
echo 3 >/proc/sys/vm/drop_caches
[ "$(dd if=/dev/vda bs=1M skip=1 count=2 2>/dev/null | tr -d '\0' | wc -c)" = 0 ] && check discarded-is-zero
[ "$(cat /sys/block/vda/cache_type)" = "write back" ] && check cache
[ "$(cat /sys/block/vdb/ro)" = 1 ] && ! dd if=/dev/zero of=/dev/vdb bs=512 count=1 2>/dev/null && check read-only
grep -q disk0 /sys/block/vda/serial && check serial
# A file system on top.
mkfs.ext2 /dev/vda >/dev/null 2>&1 || mke2fs /dev/vda >/dev/null 2>&1
modprobe -q ext4
attach() { mount -t ext4 /dev/vda /mnt 2>/dev/null || mount -t ext2 /dev/vda /mnt; }
attach && cp pattern /mnt/copy && umount /mnt && attach && cmp /mnt/copy pattern && umount /mnt && check file-system

# Entropy.
[ "$(head -c 512 /dev/hwrng | wc -c)" = 512 ] && check entropy

# Network: small, large (fragmented) and bulk, both ways.
ping -c 3 -W 10 10.77.0.1 >/dev/null && check ping
ping -c 2 -W 10 -s 20000 10.77.0.1 >/dev/null && check ping-large
nc 10.77.0.1 7001 >bulk </dev/null
echo "bulk-in $(md5sum <bulk | cut -d' ' -f1)"
nc 10.77.0.1 7002 <bulk && check sent
# Each CPU sends by the queue pair of its own, and is answered there.
for cpu in 0 1; do
    taskset $((1 << cpu)) ping -c 10 -i 0.1 -W 10 10.77.0.1 >/dev/null && check "ping-of-cpu$cpu"
done
[ "$(grep -cE 'virtio[0-9]+-(in|out)put\.[01]$' /proc/interrupts)" = 4 ] && check queues
nc 10.77.0.1 7003 </dev/null # the host looks at the counters
dmesg | grep -iE 'virtio|blk|net.*error|I/O error' | sed 's/^/log: /'
SCRIPT

truncate -s 32M "$work/a.img"
# The script is on the second disk: it is longer than a command line may be.
cp "$work/script" "$work/b.img"
truncate -s 8M "$work/b.img"
run='dd if=/dev/vdb bs=64k 2>/dev/null | tr -d "\0" >/tmp/script; sh /tmp/script'
head -c 30000000 /dev/urandom >"$work/bulk"
sum=$(md5sum <"$work/bulk" | cut -d' ' -f1)
ip tuntap add name "$tap" mode tap multi_queue >/dev/null 2>&1
ip addr add 10.77.0.1/24 dev "$tap" 2>/dev/null && ip link set "$tap" up
if ! ip link show "$tap" >/dev/null 2>&1; then
    echo "not ok - a tap can be made"
    exit 1
fi
socat -u "FILE:$work/bulk" TCP-LISTEN:7001,reuseaddr &
server=$!
socat -u TCP-LISTEN:7002,reuseaddr "CREATE:$work/back" &
server="$server $!"
# count QUEUE: the requests it has served; receive and send queues of both pairs, then control.
count() { jq "[.devices[] | select(.id == \"net0\")][0].queues[$1].requests" "$work/stats"; }
# The guest asks for it, and waits until it is done.
socat -t 60 TCP-LISTEN:7003,reuseaddr "SYSTEM:ferry stats virtio --format json >$work/stats" &
server="$server $!"

ferry run virtio --kernel build/linux/vmlinuz --initrd build/linux/initramfs.cpio.gz --memory 384M --cpus 2 \
    --disk "$work/a.img" --disk "$work/b.img,ro" --net "tap=$tap,queues=2" \
    --append "console=ttyS0 quiet ferry.ip=10.77.0.2/24 ferry.mode=cmd64=$(echo "$run" | base64 | tr -d '\n')" \
    >"$work/out" 2>&1 </dev/null
result $? "Linux with disks, network, console and entropy runs a script and switches itself off"
for name in verify parallel discard discarded-is-zero cache read-only serial file-system entropy ping ping-large sent \
    ping-of-cpu0 ping-of-cpu1 queues; do
    grep -aq "^check $name" "$work/out"
    result $? "in the guest: $name"
done
grep -aq "^bulk-in $sum" "$work/out"
result $? "30 MB arrive in the guest unharmed"
[ "$(md5sum <"$work/back" | cut -d' ' -f1)" = "$sum" ]
result $? "and back again"
for queue in 0 1 2 3; do
    [ "$(count $queue)" -ge 10 ]
    result $? "queue $queue of two pairs has carried frames"
done
[ "$(count 4)" -ge 1 ]
result $? "the second pair was asked for by the control queue"
! grep -aE '^log: .*(error|fail|reset)' "$work/out" | sed 's/^/# /' | grep .
result $? "the drivers complain about nothing"
[ $failed = 0 ] || tail -n 40 "$work/out" | sed 's/^/# /'
exit $failed
