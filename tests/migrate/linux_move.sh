#!/bin/sh
# Stock Linux, while it ticks and checks its disk, moves to another "host" and back. It must not notice but for a moment
# without time: no tick lacks or comes twice, no clock goes back, and the kernel complains of nothing.
# needs: linux
. "$(dirname "$0")/lib.sh"

cat >"$work/script" <<'SCRIPT'
seen=$(dmesg | wc -l) # what the boot said isn't the move's
(
    read -r line </dev/ttyS0
    touch /tmp/stop
) &
(
    n=0
    while [ ! -e /tmp/stop ]; do
        n=$((n + 1))
        echo "tick $n $(cut -d' ' -f1 /proc/uptime) end"
        sleep 0.1
    done
) &
ticker=$!
round=0
while [ -d /proc/$ticker ]; do
    round=$((round + 1))
    head -c 262144 /dev/urandom >/tmp/data
    dd if=/tmp/data of=/dev/vda bs=64k seek=$((round % 16 * 4)) conv=fsync 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=64k skip=$((round % 16 * 4)) count=4 2>/dev/null | cmp -s - /tmp/data || echo "disk is wrong in round $round"
done
echo "disk rounds $round end"
dmesg | tail -n +$((seen + 1)) | grep -iE 'lockup|stall|unstable|backwards|hung task|I/O error|Call Trace' | sed 's/^/complaint: /'
echo "clocksource $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource) end"
SCRIPT
dd if=/dev/zero of="$work/disk" bs=1M count=8 2>/dev/null
at a ferry run linux --detach --kernel build/linux/vmlinuz --initrd build/linux/initramfs.cpio.gz --memory 256M --cpus 2 \
    --disk "$work/disk" --append "console=ttyS0 quiet ferry.mode=cmd64=$(base64 "$work/script" | tr -d '\n')" >/dev/null
ticks_at() { grep -q 'tick [0-9]* [0-9.]* end' "$work/$1/linux/console.log"; }
move() {
    receive "$2"
    at "$1" ferry migrate linux "$place" --downtime 2s --streams "$3" >"$work/said" 2>&1 || { cat "$work/said" "$heard"; return 1; }
}
check "Linux ticks" await ticks_at a
cp "$work/a/linux/console.log" "$work/first" 2>/dev/null
check "it moves" move a b 1
tail -1 "$work/said" | sed 's/^/# /'
cp "$work/a/linux/console.log" "$work/first"
check "it ticks there" await ticks_at b
check "it moves back, over 4 connections" move b a 4
tail -1 "$work/said" | sed 's/^/# /'
cp "$work/b/linux/console.log" "$work/second"
powered_off() { grep -q 'ferry-guest: exit=' "$work/a/linux/console.log"; }
check "it ticks there again" await ticks_at a
printf 'stop\n' | socat -t 1 - "UNIX-CONNECT:$work/a/linux/console.sock" >/dev/null
check "it comes to its end there" await powered_off
cat "$work/first" "$work/second" "$work/a/linux/console.log" | tr -d '\r' >"$work/all"
# "tick N UPTIME end"
check "no tick lacks, none comes twice, time goes on" awk '
    /tick [0-9]+ [0-9.]+ end/ {
        sub(/.*tick/, "tick")
        if ($2 != last + 1) { print "tick " $2 " after " last; bad = 1 }
        if ($3 < time) { print "time " $3 " after " time; bad = 1 }
        last = $2; time = $3
    }
    END { if (last < 5) { print "only " last " ticks"; bad = 1 }; exit bad }' "$work/all"
check "the disk is right" sh -c '! grep "disk is wrong" "$1" && grep -q "disk rounds" "$1"' sh "$work/all"
check "the kernel complains of nothing" sh -c '! grep "complaint:" "$1"' sh "$work/all"
finish
