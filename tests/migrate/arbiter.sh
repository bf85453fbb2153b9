#!/bin/sh
# Moves of a managed machine, whose owner a record names: the arbiter answers, is silent, or a side dies while it asks.
# Whatever happens, the witness file must show no two starts that overlap.
# needs: kvm
. "$(dirname "$0")/lib.sh"

if ! command -v python3 >/dev/null; then
    skip "moves with an arbiter" "no python3 here"
    finish
    exit
fi
uuid=0c9d1e52-77aa-4c33-8d10-5566778899aa
boot=$(cat /proc/sys/kernel/random/boot_id)
now() { sed 's/ .*//; s/\.//; s/$/0000000/' /proc/uptime; }
in_ms() { echo $(($(now) + $1 * 1000000)); }

# begin SCRIPT SOURCE-FAILURE TARGET-FAILURE [MILLISECONDS]: machine $name on a under epoch 5, a receiver on b under 6, and
# the arbiter.
begin() {
    dd if=/dev/zero of="$disk" bs=64k count=1 2>/dev/null
    mkdir -p "$witness"
    tests/migrate/arbiter.py "$record" "$record.log" "$1" "$work/a/$name/control.sock" "$work/b/$name/control.sock" &
    echo $! >>"$work/receivers"
    [ -z "$2" ] || export FERRY_FAILURE_POINT="$2"
    at a run "$name" "pattern size=256K" --disk "$disk" \
        --lease "uuid=$uuid,epoch=5,deadline=$(in_ms "${4:-60000}"),new-disks,witness=$witness" >/dev/null || return
    unset FERRY_FAILURE_POINT
    find_parts a "$name" || { echo "the guest didn't start"; return 1; }
    [ -z "$3" ] || export FERRY_FAILURE_POINT="$3"
    receive b --lease "uuid=$uuid,epoch=6,deadline=$(in_ms "${4:-60000}"),witness=$witness"
    unset FERRY_FAILURE_POINT
    await [ -e "$record" ]
}
call() { # HOST METHOD PARAMETERS
    printf '{"method":"%s","params":%s}\n' "$2" "$3" | socat -t 20 - "UNIX-CONNECT:$work/$1/$name/control.sock" | tail -n +2
}
# The machine's own port, but with its epoch.
migrate() {
    tests/migrate/start_move.py "$work/a/$name/control.sock" "{\"to\":\"$place\",\"epoch\":5,\"downtime_ns\":3000000000,\"migration_id\":\"00112233-4455-6677-8899-aabbccddeeff\"}" \
        >"$work/said.$name"
}
reinstate() { # HOST EPOCH NOT-STARTED
    call "$1" lease.reinstate "{\"uuid\":\"$uuid\",\"epoch\":$2,\"boot_id\":\"$boot\",\"deadline_ns\":$(in_ms 60000),\"not_started\":$3}"
}
epoch_is() { # HOST EPOCH
    call "$1" query '{}' | jq -e ".result.lease.epoch == $2" >/dev/null
}
runs() { # HOST EPOCH
    [ "$1" = a ] && elsewhere=b || elsewhere=a
    await is_at "$1" "$name" running || { echo "it doesn't run at $1"; cat "$work/said.$name" "$heard" "$record.log"; return 1; }
    ! is_at $elsewhere "$name" running || { echo "it runs at both"; return 1; }
    epoch_is "$1" "$2" || { echo "not under epoch $2"; return 1; }
    at "$1" ferry pause "$name" >/dev/null && pattern_holds "$1" "$name" && at "$1" ferry resume "$name" >/dev/null || return
    build/tests/cluster/witness_check "$witness/$uuid.witness"
}
asked() { grep -q "$1" "$record.log" || { echo "nobody asked: $1"; cat "$record.log"; return 1; }; }
in_doubt() { await phase_is a "$name" in-doubt || { echo "not in doubt: $(phase a "$name")"; return 1; }; }
decided() { await grep -q "$1" "$record"; }

moved() { begin plain "" "" && migrate && runs b 6 && asked "source 5 commit target"; }
called_off() { begin aborted "" "" && migrate && runs a 5 && asked "source 5 abort source"; }
# It can be moved again after that, under another id.
cut_before_asking() { begin plain source-before-ask:cut "" && migrate && await phase_is a "$name" failed && runs a 5; }
cut_when_asked() { begin plain source-asked:cut "" && migrate && runs b 6 && asked "target 6 outcome target"; }
cut_after_commit() { begin plain source-after-commit:cut "" && migrate && runs b 6; }
source_dies_when_asked() { begin plain source-asked:kill "" && migrate && runs b 6 && asked "target 6 outcome target"; }
source_dies_before() {
    begin plain source-before-ask:kill "" && migrate && await grep -q "target 6 outcome unknown" "$record.log" || return
    ! is_at b "$name" running || { echo "it runs without a decision"; return 1; }
    echo aborted >"$record.new" && mv "$record.new" "$record" # as the cluster does: that host starts it anew
    await gone "$receiver" || { echo "the target stays"; return 1; }
}
# It was given to the target, which is gone: the source stands until the cluster gives it back.
target_dies() {
    begin plain "" "$1:kill" && migrate && decided done && in_doubt || return
    case $(call a lease.reinstate "{\"uuid\":\"$uuid\",\"epoch\":6,\"boot_id\":\"x\",\"deadline_ns\":5}") in
    *wrong-boot*) ;;
    *) echo "reinstated without right"; return 1 ;;
    esac
    case $(at a ferry resume "$name" --force 2>&1) in
    *"managed by a cluster"*) ;;
    *) echo "a person can force it"; return 1 ;;
    esac
    reinstate a 7 6 >"$work/said.$name" && runs a 7
}
# Nobody answers: both stand until their leases are over, and then for good.
silence() {
    begin deaf "" "" 12000 && migrate && await is_at a "$name" lease-lost || { echo "it isn't lease-lost"; return 1; }
    in_doubt && await gone "$receiver" || { echo "the target stays"; return 1; }
    [ "$(grep -c commit "$record.log")" -gt 2 ] || { echo "it didn't ask again"; return 1; }
    reinstate a 7 6 >"$work/said.$name" && runs a 7
}
killed_while_asking() {
    begin deaf "" "" && migrate && await grep -q "source 5 commit" "$record.log" && at a ferry kill "$name" >/dev/null &&
        await [ -e "$work/a/$name/exit.json" ] || { echo "a kill waits for the arbiter"; return 1; }
}

number=0
start() {
    number=$((number + 1))
    name=m$number disk=$work/disk.m$number record=$work/record.m$number witness=$work/witness.m$number
    echo "$*" >"$work/title.$number"
    (
        for host in a b; do mkdir -p "$work/$host"; done
        "$@" >"$work/result.$number" 2>&1
        echo $? >"$work/status.$number"
        for host in a b; do at $host ferry kill "$name" >/dev/null 2>&1; done
    ) &
    [ $((number % 4)) -ne 0 ] || wait_for_cases
}
wait_for_cases() {
    for i in $(seq $number); do await [ -e "$work/status.$i" ]; done
}
start target_dies target-loaded
start target_dies target-locked
start silence # its leases are short, but a start and a move fit into them
start killed_while_asking
start moved
start called_off
start cut_before_asking
start cut_when_asked
start cut_after_commit
start source_dies_when_asked
start source_dies_before
wait_for_cases
for i in $(seq $number); do
    title=$(tr '_' ' ' <"$work/title.$i")
    if [ "$(cat "$work/status.$i")" = 0 ]; then
        ok "$title"
    else
        not_ok "$title" "$(cat "$work/result.$i")"
    fi
done
finish
