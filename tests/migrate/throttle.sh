#!/bin/sh
# A guest that writes faster than the link carries: it moves only as its vCPUs are slowed, and nowhere are they slowed
# afterwards.
# needs: kvm
. "$(dirname "$0")/lib.sh"

if [ "${TEST_PLACE:-native}" = lab ]; then
    skip "a fast writer is slowed" "the lab's CPUs are emulated: what one gets says nothing"
    finish
    exit
fi

# 8 MiB again and again at full speed, and 20 MB/s that may be sent: after each round all is written again, and the switch
# may take 4 MB.
writer() { at a run "$1" "dirty size=8M rate=0 seconds=0" --memory 64M --cpus 2 >/dev/null && await grep -q 'dirty ms=' "$work/a/$1/console.log"; }
slow_link="--bandwidth 20M --downtime 200ms"

# numbers HOST NAME: what is withheld, and the CPU time used, of all its vCPUs, in ns.
numbers() { at "$1" ferry stats "$2" --format json | jq -r '[([.vcpus[].withheld_ns] | add), ([.vcpus[].cpu_ns] | add)] | join(" ")'; }
throttled() { at "$1" ferry stats "$2" --format json | jq -e '.cpu.throttled > 0'; }
not_throttled() { at "$1" ferry stats "$2" --format json | jq -e '.cpu.throttled == 0'; }
# It works on for another 300 ms of CPU time, and next to nothing is withheld from it meanwhile.
runs_freely() {
    # shellcheck disable=SC2046 # two words
    set -- "$@" $(numbers "$1" "$2")
    await has_used "$1" "$2" $(($4 + 300000000)) || return
    # shellcheck disable=SC2046
    set -- "$@" $(numbers "$1" "$2")
    [ $(($5 - $3)) -le 20000000 ] || { echo "$(($5 - $3)) ns were withheld in $(($6 - $4)) of CPU time"; return 1; }
}
# shellcheck disable=SC2046 # two words
has_used() { set -- "$3" $(numbers "$1" "$2") && [ "$3" -ge "$1" ]; }

check "a fast writer" writer w
receive b
# shellcheck disable=SC2086 # several options
says "doesn't move where it mayn't be slowed" 1 "*round 3 *ferry: migrate: w: *" at a ferry migrate w "$place" $slow_link --timeout 4s
check "was never slowed" not_throttled a w
receive b
# shellcheck disable=SC2086
at a ferry migrate w "$place" $slow_link --throttle 99 --timeout 2m --detach >/dev/null
check "where it may be, it is" await throttled a w
check "cancel" at a ferry migrate w --cancel
await phase_is a w failed
check "slowed no more after that" not_throttled a w
check "and it isn't" runs_freely a w
receive b
# shellcheck disable=SC2086
at a ferry migrate w "$place" $slow_link --throttle 99 --timeout 2m --detach >/dev/null
check "again it is" await throttled a w
check "then it moves" await is_at b w running
check "it isn't slowed there" not_throttled b w
check "and works on" runs_freely b w
at b ferry kill w >/dev/null
finish
