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

# 4 MiB again and again at full speed, and 5 MB/s that may be sent: after each round all is written again, also by a guest
# that a busy host gives a hundredth of a CPU, and the switch may take 1 MB.
writer() { at a run "$1" "dirty size=$2 rate=0 seconds=0" --memory 64M --cpus "$3" >/dev/null && await grep -q 'dirty ms=' "$work/a/$1/console.log"; }
slow_link="--bandwidth 5M --downtime 200ms"

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

check "a fast writer" writer w 4M 2
receive b
# shellcheck disable=SC2086 # several options
says "doesn't move where it mayn't be slowed" 1 "*round 3 *ferry: migrate: w: *" at a ferry migrate w "$place" $slow_link --timeout 4s
check "was never slowed" not_throttled a w
receive b
# By a fifth, and little of a link: not enough to let it move, however busy the host is, so it is slowed until somebody
# cancels.
at a ferry migrate w "$place" --bandwidth 3M --downtime 1ms --throttle 20 --timeout 10m --detach >/dev/null
check "where it may be, it is" await throttled a w
check "cancel" at a ferry migrate w --cancel
await phase_is a w failed
check "slowed no more after that" not_throttled a w
check "and it isn't" runs_freely a w
at a ferry kill w >/dev/null
at a ferry rm w

# A hundredth of a CPU, which is what a vCPU keeps at least, writes some 16 MB/s: a link that carries 40 takes it away.
slowed_move() { at a ferry migrate w "$place" --bandwidth 40M --downtime 100ms --throttle 99 --timeout 10m --format json >"$work/moved"; }
check "another one" writer w 16M 1
receive b
check "slowed as far as it takes, it moves" slowed_move
if jq -e '.throttle > 0' "$work/moved" >/dev/null; then
    ok "it was slowed for that"
else
    skip "it was slowed for that" "the host gave it so little time that it moved all the same"
fi
check "it runs there" await is_at b w running
check "it isn't slowed there" not_throttled b w
check "and works on" runs_freely b w
at b ferry kill w >/dev/null
finish
