#!/bin/sh
# Rate limits of disks and networks: kept, changed while the machine runs, carried by descriptions and snapshots, and
# waited for without work.
# needs: kvm
. "$(dirname "$0")/../cli/lib.sh"

truncate -s 16M "$work/disk"
tap=ferryl$$
ip=$(ls /usr/sbin/ip /usr/bin/ip 2>/dev/null | head -n 1)
have_tap=
trap 'clean_up; [ -z "$have_tap" ] || $ip link delete $tap' EXIT

# bench NAME FIELD LEAST MOST DISK-OPTIONS TEST: the guest's own figure lies between these.
bench() {
    bench_out=$(ferry run bench --kernel "$GUEST" --memory 64M --debug-exit --append "$6" $5 </dev/null 2>&1)
    figure=$(echo "$bench_out" | grep -ao " $2=[0-9]*" | tail -n 1 | sed 's/.*=//')
    if [ "${figure:-0}" -ge "$3" ] && [ "$figure" -le "$4" ]; then
        ok "$1 ($2 $figure)"
    else
        not_ok "$1" "$2 is '$figure', not $3 to $4" "$(echo "$bench_out" | tail -n 5)"
    fi
}
# The burst and what is in flight come on top: 20 and 8 in two seconds.
bench "operations of a disk" iops 20 215 "--disk $work/disk,iops=200,burst=100ms" \
    "test=blk mode=bench op=mix block=4k depth=8 size=8M seconds=2"
bench "bytes of a disk" iops 2 45 "--disk $work/disk,bps=2M,burst=100ms" \
    "test=blk mode=bench op=write block=64k depth=4 size=8M seconds=2"
if $ip tuntap add dev $tap mode tap 2>/dev/null; then
    have_tap=1
    $ip address add 10.78.3.1/24 dev $tap && $ip link set $tap up
    # 1 MiB a second, 100 KiB of burst, and 256 frames that wait in the ring: 1.4 MB/s at the very most.
    bench "bytes of a network" frames 100 2300 "--net tap=$tap,bps=1M" \
        "test=net mode=send ip=10.78.3.2 peer=10.78.3.1 size=1400 seconds=2"
    bench "a round trip of a network" lost 0 2 "--net tap=$tap,iops=50,burst=20ms" \
        "test=net mode=rtt proto=icmp ip=10.78.3.2 peer=10.78.3.1 seconds=1 lost=2"
else
    skip "limits of a network" "no right to make a tap"
fi

# ---- what the host doesn't take ----
truncate -s 16M "$work/full"
(
    ulimit -f 4096 # the disk's end lies beyond, in whichever unit the shell has
    ferry run full --kernel "$GUEST" --memory 64M --debug-exit --append "test=blk" --disk "$work/full" </dev/null >"$work/out" 2>&1
)
check "a write that the host refuses is an error of the guest's" grep -aq "blk error operation=1 .*status=1" "$work/out"
check "and in the log, once" [ "$(ferry logs --vmm full | grep -c "error disk 'disk0': writing .*File too large")" = 1 ]

# ---- while it runs ----
now() { sed "s/ .*//; s/\\.//" /proc/uptime; } # hundredths of a second
requests() { ferry stats --format json m | jq '[.devices[] | select(.id == "disk0") | .queues[].requests] | add'; }
throttled() { ferry stats --format json m | jq '.devices[] | select(.id == "disk0") | .throttled'; }
more_than() { [ "$(requests)" -gt "$1" ]; }
run m "blk mode=loop size=8M" --disk "$work/disk,iops=20" >/dev/null || not_ok "a machine with a limit starts"
await more_than 3
ferry events m >"$work/events" &
listener=$!
await sh -c 'ferry stats --format json m | jq -e ".devices[] | select(.id == \"disk0\") | .throttled > 2"'
check "the description has it" sh -c 'ferry inspect m | jq -e ".disks[0].limits == {bytes_per_second: 0,
    operations_per_second: 20, burst_ns: 0}"'
says "another limit" 0 "disk0: bytes a second 1 MiB, operations a second 10, burst 50 ms" \
    ferry device set m disk0 iops=10 bps=1M burst=50ms
from=$(now) before=$(requests)
sleep 2
after=$(requests) until=$(now)
# Of a burst at most one is left at the beginning, and a request is let go before it is paid.
most=$(((until - from) / 10 + 4))
check "is kept from then on ($((after - before)) requests, at most $most)" [ $((after - before)) -le $most ]
check "waiting costs no time" [ "$(cat /proc/"$(ferry ps --format json | jq '.[0].pid')"/task/*/stat |
    awk '/\(disk0\)/ { print ($14 + $15 < 100) }')" = 1 ]
check "it can be paused while requests wait" ferry pause m
stands=$(requests)
check "nothing is done then" [ "$(requests)" = "$stands" ]
check "and a snapshot taken" ferry snapshot m "$work/snapshot"
check "and it goes on" ferry resume m
check "with its requests" await more_than "$((stands + 5))"
check "a reset while requests wait" ferry reset m
check "no limit any more" ferry device set m disk0 iops=0 bps=0
now=$(requests)
check "is fast" await more_than "$((now + 1000))"
says "a disk that isn't there" 1 "*no disk or network 'disk9'*" ferry device set m disk9 iops=1
says "a device that has no limits" 1 "*no disk or network 'rng0'*" ferry device set m rng0 iops=1
says "something else than a limit" 1 "*'speed=9' is no limit*" ferry device set m disk0 speed=9
says "a limit that is no number" 2 "*iops: 'many' is not a number*" ferry run x --disk "$work/disk,iops=many"
says "a burst that is too short" 2 "*burst: must be a time from 1ms*" ferry run x --disk "$work/disk,burst=1us"
kill $listener
check "each change is an event" sh -c '[ "$(grep -c device-changed "$0")" = 2 ]' "$work/events"
ferry kill m >/dev/null
check "a snapshot has the limits" ferry restore "$work/snapshot" m --detach --force
check "they hold" sh -c 'ferry inspect m | jq -e ".disks[0].limits.operations_per_second == 10"'
ferry kill m >/dev/null
finish
