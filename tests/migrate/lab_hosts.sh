#!/bin/sh
# Stock Linux moves from one host of the lab to another, with a kernel and a KVM of its own, and back: it doesn't notice.
# Runs on lab1 of `scripts/lab --hosts 2`; a job of the soak.
. "$(dirname "$0")/lib.sh"

[ "${LAB_HOST:-lab1}" = lab1 ] || exit 0 # the other one is led from here
elsewhere="cd $PWD && PATH=$PWD/build:\$PATH FERRY_RUNTIME_DIR=/tmp/there"
cat >"$work/script" <<'SCRIPT'
n=0
while :; do
    n=$((n + 1))
    echo "tick $n $(cut -d' ' -f1 /proc/uptime) end"
    sleep 0.2
done
SCRIPT
at a ferry run linux --detach --kernel build/linux/vmlinuz --initrd build/linux/initramfs.cpio.gz --memory 256M --cpus 2 \
    --append "console=ttyS0 quiet ferry.mode=cmd64=$(base64 "$work/script" | tr -d '\n')" >/dev/null
ticks_here() { grep -q 'tick [0-9]* [0-9.]* end' "$work/a/linux/console.log"; }
console_there() { lab-exec lab2 'cat /tmp/there/linux/console.log'; }
ticks_there() { console_there | grep -q 'tick [0-9]* [0-9.]* end'; }
listens_there() { lab-exec lab2 'grep -q "^listening at" /tmp/heard'; }

check "Linux ticks" await ticks_here
lab-exec lab2 "$elsewhere ferry receive --listen tcp://10.77.0.2:7000 --insecure >/tmp/heard 2>&1 </dev/null &"
check "the other host waits" await listens_there
check "it moves" at a ferry migrate linux tcp://10.77.0.2:7000 --downtime 2s
check "it ticks there" await ticks_there
cp "$work/a/linux/console.log" "$work/first"
receive_address=10.77.0.1
receive a --insecure
check "it moves back, over 4 connections" lab-exec lab2 "$elsewhere ferry migrate linux $place --downtime 2s --streams 4"
console_there >"$work/second"
check "it ticks here again" await ticks_here
cat "$work/first" "$work/second" "$work/a/linux/console.log" | tr -d '\r' >"$work/all"
check "no tick lacks, none comes twice, time goes on" awk '
    /tick [0-9]+ [0-9.]+ end/ {
        sub(/.*tick/, "tick")
        if ($2 != last + 1) { print "tick " $2 " after " last; bad = 1 }
        if ($3 < time) { print "time " $3 " after " time; bad = 1 }
        last = $2; time = $3
    }
    END { if (last < 5) { print "only " last " ticks"; bad = 1 }; exit bad }' "$work/all"
finish
