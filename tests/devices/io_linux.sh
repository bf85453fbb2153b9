#!/bin/sh
# Stock Linux sends a disk every kind of request there is, random ones, with each sector's contents checked
# (guest/linux/blk_verify.c), and talks through vsock both ways (guest/linux/vsock_talk.c). LONG=yes: very much of it. A job of the soak, in the lab.
. tests/boot/linux_lib.sh

if [ -n "$LONG" ]; then
    few=1000 many=10000 bytes=30000000
else
    few=20 many=80 bytes=300000
fi
truncate -s 8M "$work/disk"
head -c $bytes /dev/urandom >"$work/said"
socat "UNIX-LISTEN:$work/v.sock_1000,fork" PIPE &
listener=$!
trap 'kill $listener 2>/dev/null; clean_up' EXIT

# One request at a time, many by a thread for each of the two queues, and many small ones by more threads than queues.
script="blk_verify /dev/vda 2 1 $few 1; blk_verify /dev/vda 2 16 $many 2; blk_verify /dev/vda 4 64 $many 3 64
echo queues \$(ls /sys/block/vda/mq | wc -l)
echo sum \$(dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | md5sum)
vsock_talk send 1000 $bytes; vsock_talk echo 7 2
dmesg | grep -iE '(virtio|blk|vsock).*(error|fail|reset)|I/O error' | sed 's/^/log: /'; echo all done"
# The long one's patience is that of its job.
wait_long() {
    until wait_line io "$1"; do
        [ -n "$LONG" ] && ferry ps | grep -q '^io ' || return 1
    done
}
verified() { wait_long "^blk_verify: threads=$1 depth=$2 .* result=" && has io "^blk_verify: threads=$1 depth=$2 .* result=pass"; }
same_sum() { has io "^sum $(md5sum <"$work/disk" | cut -d' ' -f1)"; }
echoed() {
    { printf 'CONNECT 7\n' && cat "$work/said"; } | timeout 3000 socat -t 300 - "UNIX-CONNECT:$work/v.sock" >"$work/back"
    tail -n +2 "$work/back" | cmp - "$work/said"
}

check io "Linux starts" linux io "ferry.mode=cmd64=$(echo "$script" | base64 | tr -d '\n') console=ttyS0" --cpus 2 \
    --disk "$work/disk" --vsock "cid=42,socket=$work/v.sock"
check io "random requests, one at a time" verified 2 1
check io "16 at a time from each of two threads" verified 2 16
check io "64 at a time from each of four" verified 4 64
wait_long '^sum '
check io "by two queues" has io '^queues 2$'
check io "the image has what the guest reads" same_sum
check io "the guest talks to the host by vsock" wait_long "^vsock_talk: sent and received $bytes\$"
wait_long '^vsock_talk: listening'
check io "the host talks to the guest" echoed
check io "and again" echoed
wait_long '^all done'
complaints() { ! has io '^log: '; }
check io "the drivers complain about nothing" complaints
exit $failed
