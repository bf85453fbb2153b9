#!/bin/sh
# A guest of which one vCPU writes faster than the link carries, and two only count: the move slows the one.
# needs: kvm
. "$(dirname "$0")/lib.sh"

if [ "${TEST_PLACE:-native}" = lab ]; then
    skip "one writer of three is slowed" "the lab's CPUs are emulated: what one gets says nothing"
    finish
    exit
fi

# withheld N: ns that were withheld from vCPU N; the sum moves along.
withheld() { at b ferry stats w --format json | jq ".vcpus[$1].withheld_ns"; }
writer() { at a run w "dirty size=1536K rate=0 seconds=0 writers=1" --memory 64M --cpus 3 >/dev/null && await grep -q 'dirty ms=' "$work/a/w/console.log"; }

check "one vCPU that writes, and two that don't" writer
receive b
# All that it writes takes 375 ms; slowed as far as may be, it can't write a third of that meanwhile.
check "it moves, slowed" at a ferry migrate w "$place" --bandwidth 4M --downtime 100ms --throttle 99 --timeout 5m
await is_at b w running
written=$(withheld 0)
check "the one was" [ "$written" -gt 0 ]
for i in 1 2; do
    others=$(withheld $i)
    if [ $((others * 10)) -le "$written" ]; then
        ok "vCPU $i wasn't"
    else
        not_ok "vCPU $i wasn't" "$others ns were withheld from it, $written ns from the writer"
    fi
done
at b ferry kill w >/dev/null
finish
