#!/bin/sh
# A guest of which one vCPU writes faster than the link carries, and two only count: the move slows the one.
# needs: kvm
. "$(dirname "$0")/lib.sh"

if [ "${TEST_PLACE:-native}" = lab ]; then
    skip "one writer of three is slowed" "the lab's CPUs are emulated: what one gets says nothing"
    finish
    exit
fi

# withheld N: ns that were withheld from vCPU N, when it was last looked.
withheld() { jq ".vcpus[$1].withheld_ns" "$work/stats"; }
is_held() { at a ferry stats w --format json >"$work/stats" && [ "$(withheld 0)" -ge 200000000 ]; }
writer() { at a run w "dirty size=2M rate=0 seconds=0 writers=1" --memory 64M --cpus 3 >/dev/null && await grep -q 'dirty ms=' "$work/a/w/console.log"; }

check "one vCPU that writes, and two that don't" writer
receive b
# The switch is too short for a writer that runs at all.
at a ferry migrate w "$place" --bandwidth 1M --downtime 1ms --throttle 99 --timeout 10m --detach >/dev/null
check "the one is slowed" await is_held
for i in 1 2; do
    others=$(withheld $i) written=$(withheld 0)
    if [ $((others * 10)) -le "$written" ]; then
        ok "vCPU $i isn't"
    else
        not_ok "vCPU $i isn't" "$others ns were withheld from it, $written ns from the writer"
    fi
done
at a ferry kill w >/dev/null 2>&1 # it may have moved by now
finish
