#!/bin/sh
# Moves guests between two runtime directories of this host, and looks at what arrives.
# needs: kvm
. "$(dirname "$0")/lib.sh"

check "8 moves of 1 vCPU, over 1 and 4 connections" round_trips 1 8
check "2 moves of 2 vCPUs" round_trips 2 2
sed 's/^/# /' "$work/moves"

# move FROM TO NAME [OPTION]...
move() {
    from=$1 to=$2 name=$3
    shift 3
    receive "$to"
    at "$from" ferry migrate "$name" "$place" --downtime 3s "$@" >"$work/said" 2>&1 && return
    cat "$work/said" "$heard"
    await gone "$receiver" # its end holds the name for a moment
    return 1
}

# Receivers that became machines are machines; no other is left.
no_receivers() {
    for pid in $(cat "$work/receivers"); do
        is_ours "$pid" || continue
        at a ferry ps --format json | jq -e --argjson pid "$pid" 'any(.pid == $pid)' >/dev/null && continue
        at b ferry ps --format json | jq -e --argjson pid "$pid" 'any(.pid == $pid)' >/dev/null && continue
        return 1
    done
}

# ---- time ----
# Both vCPUs' TSCs against each other, and kvmclock, also over the move: a line after it still counts no step back.
time_goes_on() {
    at a run gap "gap seconds=0" --cpus 2 >/dev/null
    await grep -q 'gap cpu=1 ' "$work/a/gap/console.log" || return
    move a b gap || return
    await_lines "gap cpu=0 .*kvmclock_backwards=" 2 "$work/b/gap/console.log" || return
    # Two vCPUs write at the same time, so whole lines only.
    grep 'gap cpu=.*kvmclock_backwards=' "$work/b/gap/console.log" | tail -2 | tee "$work/gap"
    ! grep -Ev ' backwards=0 .*kvmclock_backwards=0' "$work/gap"
}
await_lines() { await [ "$1" ] && await has_lines "$@"; }
has_lines() { [ "$(grep -c "$1" "$3")" -ge "$2" ]; }
check "clocks don't go backwards" time_goes_on
at b ferry kill gap >/dev/null 2>&1

# ---- a disk and the console ----
dd if=/dev/zero of="$work/disk" bs=1M count=8 2>/dev/null
locked() { says "$1" 1 "*$work/disk*" at a run third hello --disk "$work/disk"; }
disk_moves() {
    at a run disk "blk mode=loop size=4M seconds=0" --disk "$work/disk" >/dev/null
    await grep -q 'blk loop requests=' "$work/a/disk/console.log" || return
    move a b disk || return
    # Every block is compared with what was written last: on whichever side that was.
    await_lines 'blk loop requests=' 2 "$work/b/disk/console.log" || return
    ! grep 'result=fail' "$work/b/disk/console.log"
}
check "a disk's contents go along" disk_moves
locked "its lock goes along: nobody else gets it"
at b ferry kill disk >/dev/null
check "and is free after the end" at a run third hello --disk "$work/disk"
at a ferry kill third >/dev/null 2>&1

type_at() { printf "$3" | socat -t 1 - "UNIX-CONNECT:$work/$1/$2/console.sock" >/dev/null; }
console_moves() {
    at a run keys input >/dev/null
    await grep -q 'input ready' "$work/a/keys/console.log" && type_at a keys 'before\n' || return
    await grep -q 'line="before"' "$work/a/keys/console.log" && move a b keys || return
    type_at b keys 'after\nquit\n'
    await grep -q 'test=input lines=3 result=pass' "$work/b/keys/console.log" || cat "$work/b/keys/console.log"
}
check "the console works on both sides" console_moves

# ---- paused, cancelled, late ----
at a run p "pattern size=1M" >/dev/null
find_parts a p
at a ferry pause p >/dev/null
check "a paused machine moves" move a b p
check "it is paused where it arrives" is_at b p paused
check "with its memory" pattern_holds b p
at b ferry resume p >/dev/null
check "and goes on there" moves_on b p

receive a
at b ferry migrate p "$place" --detach --bandwidth 64K >/dev/null 2>&1
check "it has begun" await phase_is b p rounds
tells_the_rest() { at b ferry migrate p --status --format json | jq -e '.remaining_bytes > 0 and .bytes_per_second > 0'; }
check "how much is left, and how fast it goes, is told in the first round too" await tells_the_rest
says "only one migration at a time" 1 "*under way*" at b ferry migrate p "$place"
says "no reset meanwhile" 1 "*migration*" at b ferry reset p
check "cancel" at b ferry migrate p --cancel
check "then it has failed" await phase_is b p failed
check "the machine runs" is_at b p running
check "the receiver has ended" await gone "$receiver"
check "and left nothing" nothing_left a p
says "what a time-out does, in the middle of a round" 1 "*time-out*" move b a p --bandwidth 64K --timeout 1s
says "what a time-out does, between rounds" 1 "*time*" move b a p --downtime 0ms --bandwidth 4M --timeout 2s
check "the machine still runs" moves_on b p
check "forced at the time-out" move b a p --downtime 0ms --bandwidth 4M --timeout 2s --on-timeout force
check "it runs there" moves_on a p
at a ferry pause p >/dev/null
check "with its memory, after attempts that failed" pattern_holds a p
at a ferry resume p >/dev/null
# A megabyte at 256 KiB/s: the cap isn't for the switch, but for the round before it.
before=$(date +%s)
check "a bandwidth cap" move a b p --bandwidth 256K --downtime 60s
check "holds" [ $(($(date +%s) - before)) -ge 3 ]

# Nobody listens at port 1. Whoever polls the status may try again as soon as it says that it has failed.
FERRY_FAILURE_POINT=source-ended:delay at a run again idle >/dev/null
at a ferry migrate again tcp://127.0.0.1:1 --detach >/dev/null 2>&1
await phase_is a again failed
says "after a failure the next attempt may begin at once" 1 "*refused*" at a ferry migrate again tcp://127.0.0.1:1
at a ferry kill again >/dev/null

# ---- refused ----
receive a --token secret
says "a wrong token" 1 "*token is wrong*" at b ferry migrate p "$place" --token wrong
kill "$receiver"
receive a
says "a token where none is wanted does no harm" 0 "*moved*" at b ferry migrate p "$place" --token any --downtime 3s
check "the name is free once it has moved" at b run p idle
receive b
says "the name is taken" 1 "*'p'*" at a ferry migrate p "$place"
receive b other
check "another name isn't" at a ferry migrate p "$place" --downtime 3s
check "it has that name there" is_at b other running
at b ferry kill p >/dev/null
cp "$work/disk" "$work/lost"
at b run holder idle --disk "$work/lost" >/dev/null
mv "$work/lost" "$work/elsewhere"
says "a disk that isn't there" 1 "*lost*" move b a holder
check "before the first page" [ "$(at b ferry migrate holder --status --format json | jq .bytes)" = 0 ]
check "the machine runs on" is_at b holder running
check "nothing is left" nothing_left a holder
mv "$work/elsewhere" "$work/lost"
check "once it is there the machine moves" move b a holder
check "no process is left but the machines" await no_receivers
finish
