#!/bin/sh
# Machines that a cluster manages: they run under a lease, and not one instruction longer.
# needs: kvm
. "$(dirname "$0")/lib.sh"

uuid=6f1c2a10-5d3e-4b6a-9c77-0123456789ab
boot=$(cat /proc/sys/kernel/random/boot_id)
# CLOCK_BOOTTIME, in nanoseconds as far as the kernel tells it to a shell. (There's no Python in the lab.)
now() { sed 's/ .*//; s/\.//; s/$/0000000/' /proc/uptime; }
in_ms() { echo $(($(now) + $1 * 1000000)); }
past() { [ "$(now)" -gt "$1" ]; }
# lease EPOCH MILLISECONDS [,FIELD...]: the option's value.
lease() { echo "uuid=$uuid,epoch=$1,deadline=$(in_ms "$2")$3"; }
# renew NAME EPOCH DEADLINE [UUID] [BOOT], and reinstate: the answer.
call() { ask "$2" "{\"method\":\"lease.$1\",\"params\":{\"uuid\":\"${5:-$uuid}\",\"epoch\":$3,\"boot_id\":\"${6:-$boot}\",\"deadline_ns\":$4}}"; }
renew() { call renew "$@"; }
reinstate() { call reinstate "$@"; }
answers() { # NAME PATTERN COMMAND...
    answers_name=$1 answers_pattern=$2
    shift 2
    says "$answers_name" 0 "$answers_pattern" "$@"
}
pid() { ferry ps --format json | jq -r --arg name "$1" '.[] | select(.name == $name) | .pid'; }
ready() { await sh -c "ferry logs $1 | grep -q 'pattern ready'"; }
# A digest of the guest RAM of a machine's process, running or stopped. It is read from outside, so that the process has
# no part in it: RAM is the process's largest writable mapping that is no file's, of 32 MiB at least.
digest_of() {
    start=0 size=0
    while read -r range access _ _ _ file; do
        [ "$access$file" = rw-p ] || continue
        length=$((0x${range#*-} - 0x${range%-*}))
        [ "$length" -gt $size ] && size=$length start=$((0x${range%-*}))
    done <"/proc/$1/maps"
    [ "$size" -ge $((32 << 20)) ] || { echo "no mapping is large enough"; return 1; }
    dd if="/proc/$1/mem" bs=65536 skip=$((start / 65536)) count=$((size / 65536)) 2>/dev/null | sha256sum
}
digest() { digest_of "$(pid "$1")"; }
ended() { [ "$(ferry ps -a --format json | jq -r --arg name "$1" '.[] | select(.name == $name) | .reason')" = "$2" ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }
stopped() { grep -q '^State:.*T' "/proc/$1/status"; }
locked() { ! run other hello --disk "$1" >/dev/null 2>&1; }

disk=$work/disk
dd if=/dev/zero of="$disk" bs=64k count=1 2>/dev/null

# ---- starting ----
says "a lease that has run out starts nothing" 1 "ferry: run: *lease has run out*" run m idle --lease "$(lease 5 -10)"
says "nor does one without an epoch" 2 "ferry: run: *uuid=, epoch= and deadline=*" \
    run m idle --lease "uuid=$uuid,deadline=$(in_ms 60000)"
says "a field that a lease doesn't have" 2 "ferry: run: *no field 'epok'*" run m idle --lease "uuid=$uuid,epok=3"
says "a disk without an epoch file isn't the machine's" 1 "ferry: run: *no '.epoch' file beside it*" \
    run m idle --disk "$disk" --lease "$(lease 5 60000)"
check "but for the first start" run m pattern --disk "$disk" --lease "$(lease 5 60000 ,new-disks,keep=2s)"
check "query shows the lease" sh -c 'ferry ps --format json >/dev/null && printf "{\"method\":\"query\"}\n" |
    socat - "UNIX-CONNECT:$FERRY_RUNTIME_DIR/m/control.sock" | tail -n +2 |
    jq -e ".result.lease.epoch == 5 and .result.lease.lost == false and .result.lease.deadline_ns > 0"'
check "the description doesn't" sh -c 'ferry inspect m | jq -e "has(\"lease\") or has(\"epoch\") | not"'

check "one without a deadline has an epoch all the same" run never idle --lease "uuid=$uuid,epoch=5,deadline=none"
answers "and takes renewals, which change nothing" '*"state":"running"*' renew never 5 "$(in_ms 1)"
answers "its moves are the cluster's" '*"not-allowed"*' ask never '{"method":"resume","params":{"force":true}}'
ferry kill never >/dev/null

# ---- renewing ----
deadline=$(in_ms 90000)
answers "a renewal" "*\"state\":\"running\"*now_ns*\"deadline_ns\":$deadline*" renew m 5 "$deadline"
answers "an earlier deadline changes nothing" "*\"deadline_ns\":$deadline*" renew m 5 $((deadline - 80000000000))
answers "another epoch" '*"wrong-epoch"*' renew m 6 "$((deadline + 1))"
answers "another machine" '*"wrong-uuid"*' renew m 5 "$((deadline + 1))" 6f1c2a10-5d3e-4b6a-9c77-0123456789ac
answers "another boot" '*"wrong-boot"*' renew m 5 "$((deadline + 1))" "$uuid" "yesterday's"
answers "without a deadline" '*"invalid-params"*' ask m '{"method":"lease.renew","params":{}}'

# ---- who decides where it runs ----
answers "a move must carry the epoch" '*"not-allowed"*epoch*' \
    ask m '{"method":"migrate.start","params":{"to":"tcp://127.0.0.1:1"}}'
answers "the right one" '*"not-allowed"*has the epoch 5, not 4*' \
    ask m '{"method":"migrate.start","params":{"to":"tcp://127.0.0.1:1","epoch":4}}'
answers "so must a forced resume" '*"not-allowed"*' ask m '{"method":"resume","params":{"force":true}}'
says "pausing is anybody's" 0 "m: paused" ferry pause m
says "so is resuming" 0 "m: running" ferry resume m
check "a machine without a lease knows no renewal" sh -c '
    ferry run plain --detach --kernel "$1" --append test=idle --memory 32M >/dev/null &&
    printf "%s\n" "{\"method\":\"lease.renew\",\"params\":{\"uuid\":\"$2\",\"epoch\":5,\"boot_id\":\"x\",\"deadline_ns\":5}}" |
    socat - "UNIX-CONNECT:$FERRY_RUNTIME_DIR/plain/control.sock" | grep -q not-managed' sh "$GUEST" $uuid

# ---- a snapshot carries no lease, and its restore is the cluster's ----
check "snapshot" ferry snapshot m "$work/snap"
ferry kill m >/dev/null
check "a kill works, and is reported" jq -e '.reason == "killed" and .epoch == 5' "$FERRY_RUNTIME_DIR/m/exit.json"
says "a restore of a cluster's machine by hand" 1 "ferry: restore: *a cluster manages*" ferry restore --detach "$work/snap"
says "with an old epoch" 1 "ferry: restore: *used by a later owner (epoch 5, this one has 4)*" \
    ferry restore --detach "$work/snap" --lease "$(lease 4 60000)"
says "with another machine's lease" 1 "ferry: restore: *another machine*" \
    ferry restore --detach "$work/snap" --lease "uuid=6f1c2a10-5d3e-4b6a-9c77-0123456789ac,epoch=9,deadline=$(in_ms 60000)"
check "with its own" ferry restore --detach "$work/snap" --lease "$(lease 6 60000 ,keep=1s)"
check "it has that one" sh -c 'printf "{\"method\":\"query\"}\n" | socat - "UNIX-CONNECT:$FERRY_RUNTIME_DIR/m/control.sock" |
    tail -n +2 | jq -e ".result.lease.epoch == 6"'

# ---- a successor waits for the disk ----
FERRY_RUNTIME_DIR=$work/next
check "a start while the disk is locked waits" run m idle --disk "$disk" --lease "$(lease 7 60000 ,keep=1s)"
check "created, with its control socket" sh -c 'printf "{\"method\":\"query\"}\n" |
    socat - "UNIX-CONNECT:$FERRY_RUNTIME_DIR/m/control.sock" | tail -n +2 | jq -e ".result.state == \"created\""'
answers "which takes renewals" '*"state":"created"*' renew m 7 "$(in_ms 80000)"
check "it says for whom" sh -c 'ferry logs --vmm m | grep "is in use by process"'
FERRY_RUNTIME_DIR=$work/run
ferry kill m >/dev/null
FERRY_RUNTIME_DIR=$work/next
check "then it runs" await is_state m running
ferry kill m >/dev/null
FERRY_RUNTIME_DIR=$work/run

# ---- the deadline ----
check "a start" run m "pattern size=1M" --disk "$disk" --lease "$(lease 8 4000 ,keep=20s)"
check "past the deadline it is lease-lost" await is_state m lease-lost
first=$(digest m)
answers "no renewal brings it back" '*"lease-lost"*' renew m 8 "$(in_ms 60000)"
answers "no resume" '*"wrong-state"*lease is lost*' ask m '{"method":"resume"}'
answers "no force" '*"wrong-state"*' ask m '{"method":"resume","params":{"force":true,"epoch":8}}'
answers "no move" '*"wrong-state"*' ask m '{"method":"migrate.start","params":{"to":"tcp://127.0.0.1:1","epoch":8}}'
answers "no reset" '*"wrong-state"*' ask m '{"method":"reset"}'
answers "no smaller epoch" '*"wrong-epoch"*' reinstate m 8 "$(in_ms 60000)"
check "its memory stays as it was" [ "$first" = "$(digest m)" ]
answers "a larger epoch lets it go on" '*"state":"running"*' reinstate m 9 "$(in_ms 1500)"
moves() { [ "$(digest m)" != "$first" ]; }
check "it runs" await moves
check "until that deadline" await is_state m lease-lost
check "the disk is free meanwhile" run other hello --disk "$disk"
await ended other power-off
kill_later=$(pid m)
ferry kill m >/dev/null
await gone "$kill_later"
check "without help its process ends after a while" run m idle --disk "$disk" --lease "$(lease 9 3000 ,keep=500ms)"
check "it does" await ended m lease-lost
check "exit.json says why" jq -e '.reason == "lease-lost" and .epoch == 9' "$FERRY_RUNTIME_DIR/m/exit.json"

check "a paused machine gives its disk up, too" run m pattern --disk "$disk" --lease "$(lease 10 4000 ,keep=60s)"
ferry pause m >/dev/null
await is_state m lease-lost
FERRY_RUNTIME_DIR=$work/next
check "so that its successor runs" run m "exits count=10" --disk "$disk" --lease "$(lease 11 60000)"
await ended m power-off
FERRY_RUNTIME_DIR=$work/run
answers "after which the old memory is worth nothing" '*"wrong-epoch"*later owner*' reinstate m 12 "$(in_ms 60000)"
ferry kill m >/dev/null

# ---- I/O under losses ----
big=$work/big
dd if=/dev/zero of="$big" bs=1M count=4 2>/dev/null
FERRY_RUNTIME_DIR=$work/io
requests() { ferry logs m | sed -n 's/.*blk loop requests=\([0-9]*\).*/\1/p' | tail -n 1; }
more() { [ "$(requests)" -gt "$1" ]; }
check "a guest that reads, compares and writes" run m "blk mode=loop" --disk "$big" --lease "$(lease 30 4000 ,new-disks,witness="$work")"
for epoch in 31 32 33 34; do
    await is_state m lease-lost
    reinstate m $epoch "$(in_ms 400)" >/dev/null
done
await is_state m lease-lost
reinstate m 35 "$(in_ms 60000)" >/dev/null
seen=$(requests)
check "goes on after each loss of the lease" await more "${seen:-0}"
check "with every block as it was written" sh -c '! ferry logs m | grep -i -e error -e fail'
ferry kill m >/dev/null
says "the witness saw six starts, none beside another" 0 "*epoch 30*epoch 35*wrote*6 starts, 0 wrong*" \
    build/tests/cluster/witness_check "$work/$uuid.witness"
# The control: two that do run at once.
run m idle --lease "$(lease 40 60000 ,witness="$work")" >/dev/null
FERRY_RUNTIME_DIR=$work/beside
run m hello --lease "$(lease 41 60000 ,witness="$work")" >/dev/null
await ended m power-off
FERRY_RUNTIME_DIR=$work/io
ferry pause m >/dev/null && ferry resume m >/dev/null && ferry kill m >/dev/null
says "and sees it when two run at once" 1 "*WRONG: epochs 40 and 41 ran at the same time*" \
    build/tests/cluster/witness_check "$work/$uuid.witness"

# ---- stopped past the deadline ----
# The control: a machine without a deadline moves on after SIGCONT, so this test would see it.
FERRY_RUNTIME_DIR=$work/control
began=$(now)
run m "pattern size=1M" >/dev/null
ready m
took=$((($(now) - began) / 1000000)) # milliseconds
process=$(pid m)
kill -STOP "$process"
first=$(digest_of "$process")
kill -CONT "$process"
check "a machine without a lease goes on after it was stopped" await moves
ferry kill m >/dev/null

# frozen NAME PROCESS DEADLINE: it is stopped; past the deadline it goes on, and is lease-lost without having run.
frozen() {
    await past $(($3 + 100000000))
    before=$(digest_of "$2")
    kill -CONT "$2"
    await is_state "$1" lease-lost || return
    [ "$(digest_of "$2")" = "$before" ] || { echo "the guest ran after its deadline"; return 1; }
}
# Between comparing the deadline and entering the guest. How long the start above took says how long to give this one.
FERRY_RUNTIME_DIR=$work/between
deadline=$(in_ms $((3000 + 6 * took)))
# (Without the sandbox: what stops it there is more than a vCPU thread may do.)
STOP_BEFORE_RUN=$work/stop LD_PRELOAD=$PWD/build/tests/cli/stop_before_run.so \
    run m "pattern size=1M" --sandbox off --lease "uuid=$uuid,epoch=20,deadline=$deadline" >/dev/null
ready m
process=$(pid m)
touch "$work/stop"
ferry pause m >/dev/null && { ask m '{"method":"resume"}' >/dev/null 2>&1 & }
check "stopped between the comparison and KVM_RUN" await stopped "$process"
check "it doesn't enter the guest any more" frozen m "$process" "$deadline"
ferry kill m >/dev/null

# Anywhere else: in the guest, mostly.
for i in 1 2 3 4; do
    (
        FERRY_RUNTIME_DIR=$work/stop.$i
        deadline=$(in_ms $((2000 + 8 * took)))
        run m "pattern size=1M" --cpus $((i % 2 + 1)) --lease "uuid=$uuid,epoch=2$i,deadline=$deadline" >/dev/null
        ready m
        process=$(pid m)
        kill -STOP "$process"
        frozen m "$process" "$deadline" >"$work/stopped.$i" 2>&1 || echo failed >>"$work/stopped.$i"
        ferry kill m >/dev/null
    ) &
done
wait
check "stopped in the guest it doesn't go on" sh -c 'cat "$1"/stopped.*; [ ! -s "$1/stopped.1" ] && [ ! -s "$1/stopped.2" ] &&
    [ ! -s "$1/stopped.3" ] && [ ! -s "$1/stopped.4" ] && [ -e "$1/stopped.4" ]' sh "$work"
finish
