#!/bin/sh
# soak.sh MOVES: that many moves back and forth, in turns of 1, 2, 4 and 8 vCPUs and several amounts of memory.
. "$(dirname "$0")/lib.sh"
left=${1:-4000}
turn=0
while [ "$left" -gt 0 ]; do
    for cpus in 1 2 4 8; do
        for size in 256K 1M 4M; do
            turn=$((turn + 1))
            check "turn $turn: 20 moves of $cpus vCPUs that write to $size each" round_trips $cpus 20 $size
            at a ferry kill "pattern$cpus" >/dev/null 2>&1
            at b ferry kill "pattern$cpus" >/dev/null 2>&1
            left=$((left - 20))
            [ "$left" -gt 0 ] || break 2
        done
    done
done
finish
