#!/bin/sh
# Processes that die, stop and cut their connections in each phase of a migration, by the failure points that
# docs/migration.md lists. Afterwards the machine runs once, or stays paused until a person decides; its disk is
# locked where it runs and nowhere else; and it can be moved again.
# needs: kvm
. "$(dirname "$0")/lib.sh"

# ---- one case, in a process of its own: it says what is wrong ----

# begin SOURCE-FAILURE TARGET-FAILURE: machine $name on a and a receiver on b.
begin() {
    dd if=/dev/zero of="$disk" bs=64k count=1 2>/dev/null
    FERRY_FAILURE_POINT=$1
    [ -z "$1" ] || export FERRY_FAILURE_POINT
    at a run "$name" "pattern size=256K rate=2" --disk "$disk" >/dev/null || return
    unset FERRY_FAILURE_POINT
    find_parts a "$name" || { echo "the guest didn't start"; return 1; }
    [ -z "$2" ] || export FERRY_FAILURE_POINT="$2"
    receive b
    unset FERRY_FAILURE_POINT
}
migrate() { at a ferry migrate "$name" "$place" --downtime 3s >"$work/said.$name" 2>&1; }

# runs HOST: there and nowhere else, with its memory and its disk.
runs() {
    [ "$1" = a ] && elsewhere=b || elsewhere=a
    await is_at "$1" "$name" running || { echo "it doesn't run at $1"; cat "$work/said.$name" "$heard"; return 1; }
    ! is_at $elsewhere "$name" running || { echo "it runs at both"; return 1; }
    at "$1" ferry pause "$name" >/dev/null && pattern_holds "$1" "$name" && at "$1" ferry resume "$name" >/dev/null || return
    # shellcheck disable=SC2154 # says sets it
    case $(at $elsewhere run "third$name" hello --disk "$disk" 2>&1) in
    *"$disk"*) ;;
    *) echo "somebody else gets the disk"; return 1 ;;
    esac
}
# It runs at HOST and can be moved from there.
runs_and_moves() {
    runs "$1" || return
    [ "$1" = a ] && elsewhere=b || elsewhere=a
    receive $elsewhere "$name-again"
    at "$1" ferry migrate "$name" "$place" --downtime 3s >"$work/said.$name" 2>&1 || { cat "$work/said.$name"; return 1; }
    await is_at $elsewhere "$name-again" running || { echo "it doesn't run after a second migration"; return 1; }
    at $elsewhere ferry kill "$name-again" >/dev/null
}
no_runs() {
    ! is_at a "$name" running && ! is_at b "$name" running || { echo "it runs"; return 1; }
    # Its disk is free, so it can be started again from it.
    at a run "again$name" "idle" --disk "$disk" >/dev/null && at a ferry kill "again$name" >/dev/null
}
# Paused at a until a person decides.
in_doubt() {
    await phase_is a "$name" in-doubt || { echo "not in doubt: $(phase a "$name")"; return 1; }
    is_at a "$name" paused || { echo "not paused"; return 1; }
    case $(at a ferry resume "$name" 2>&1) in
    *"resume --force"*) ;;
    *) echo "ferry resume says nothing of --force"; return 1 ;;
    esac
    case $(at a ferry migrate "$name" tcp://127.0.0.1:1 2>&1) in
    *"may be running"*) ;;
    *) echo "a machine in doubt can be migrated"; return 1 ;;
    esac
    at a ferry resume --force "$name" >/dev/null || { echo "ferry resume --force failed"; return 1; }
}

source_killed() { begin "$1:kill" "" && { migrate; no_runs; }; }
source_killed_late() { begin "$1:kill" "" && { migrate; runs_and_moves b; }; }
target_killed() { begin "" "$1:kill" && { migrate; runs_and_moves a; }; }
# After COMMIT the source can't know.
target_killed_late() { begin "" "$1:kill" && { migrate; in_doubt && runs_and_moves a; }; }
source_cut() { begin "$1:cut" "" && { migrate; runs_and_moves "$2"; }; }
target_cut() { begin "" "$1:cut" && { migrate; runs_and_moves "$2"; }; }

stopped() { grep -q '^State:.*T' "/proc/$1/status"; }
pid_at() { at "$1" ferry ps --format json | jq -r --arg name "$name" '.[] | select(.name == $name) | .pid'; }
# A stop that is shorter than any limit changes nothing.
source_stopped() {
    begin "$1:stop" "" || return
    pid=$(pid_at a)
    migrate &
    await stopped "$pid" || { echo "it never stopped"; return 1; }
    kill -CONT "$pid"
    wait $!
    runs_and_moves b
}
target_stopped() {
    begin "" "$1:stop" || return
    migrate &
    await stopped "$receiver" || { echo "it never stopped"; return 1; }
    kill -CONT "$receiver"
    wait $!
    runs_and_moves b
}
# The source stood before COMMIT until the target gave up: it sees that, and goes on.
source_stopped_long() {
    begin source-before-commit:stop "" || return
    pid=$(pid_at a)
    migrate &
    await stopped "$pid" || { echo "it never stopped"; return 1; }
    await grep -q 'silent' "$work/b/$name/log"
    kill -CONT "$pid"
    wait $!
    runs_and_moves a
}
# The target stood, with COMMIT in its socket, until the source was in doubt and a person forced it: it must not start
# any more.
target_stopped_long() {
    begin "" target-loaded:stop || return
    migrate &
    await stopped "$receiver" || { echo "it never stopped"; return 1; }
    wait $!
    in_doubt || return
    kill -CONT "$receiver"
    await gone "$receiver" || { echo "the target didn't end"; return 1; }
    runs_and_moves a
}

# start FUNCTION [ARGUMENT]...: in the background.
number=0
start() {
    number=$((number + 1))
    name=m$number
    disk=$work/disk.$name
    echo "$*" >"$work/title.$number"
    (
        mkdir -p "$work/case.$name"
        for host in a b; do mkdir -p "$work/$host"; done
        "$@" >"$work/result.$number" 2>&1
        echo $? >"$work/status.$number"
        for host in a b; do at $host ferry kill "$name" >/dev/null 2>&1; done
    ) &
    case_pid=$!
}
# The same, four at a time.
batch=
next() {
    start "$@"
    batch="$batch $case_pid"
    # shellcheck disable=SC2086 # a list
    [ "$(echo $batch | wc -w)" -lt 4 ] || finish_some
}
finish_some() {
    # shellcheck disable=SC2086 # a list
    wait $batch
    batch=
}

# The ones that wait for a limit of time, at the side of the others.
start target_killed_late target-before-start
start target_killed_late target-after-start
start source_stopped_long
start target_stopped_long
for point in source-connecting source-preparing source-ready source-first-round source-before-freeze source-frozen \
    source-state source-loaded source-before-commit; do
    next source_killed $point
done
next source_killed_late source-after-commit
next source_killed_late source-started
for point in target-accepting target-building target-round target-state target-before-loaded; do
    next target_killed $point
done
next source_cut source-frozen a
next source_cut source-before-commit a
next target_cut target-before-start b
next target_cut target-after-start b
next source_stopped source-frozen
next source_stopped source-after-commit
next target_stopped target-before-loaded
next target_stopped target-before-start
wait
for i in $(seq $number); do
    title=$(tr '_' ' ' <"$work/title.$i")
    if [ "$(cat "$work/status.$i")" = 0 ]; then
        ok "$title"
    else
        not_ok "$title" "$(cat "$work/result.$i")"
    fi
done

# ---- garbage ----
receive b --keep
port=${place##*:}
garbage() { socat -t 5 - "TCP:127.0.0.1:$port" >"$work/answer" 2>&1; }
hello='\001\000\000\000\043\000\000\000\015\012\106\105\122\122\131\115\001\000\000\000\000'
id='0123456789abcdef\000\000\000\000\000\000'
: | garbage
head -c 100000 /dev/urandom | garbage
head -c 100000 /dev/zero | garbage
printf 'GET / HTTP/1.0\r\n\r\n' | garbage
printf "$hello" | garbage
printf '\001\000\000\000\377\377\377\377' | garbage
ok "garbage is thrown away"
{ printf "$hello$id"; printf '\004\000\000\000\005\000\000\000{"a":'; } | garbage
check "a description that is none is refused" grep -q 'description' "$work/answer"
{ printf "$hello$id"; head -c 5000 /dev/urandom; } | garbage
check "so is noise behind a greeting" [ -s "$work/answer" ]
printf "\\001\\000\\000\\000\\043\\000\\000\\000\\015\\012\\106\\105\\122\\122\\131\\115\\011\\000\\000\\000\\000$id" | garbage
check "another version is told so" grep -q 'version' "$work/answer"
name=good disk=$work/disk.good
dd if=/dev/zero of="$disk" bs=64k count=1 2>/dev/null
at a run good "pattern size=256K" --disk "$disk" >/dev/null
find_parts a good
check "a receiver that stays takes a machine after all that" migrate
check "which runs" runs b
check "nothing else is left" [ "$(ls "$work/b" | grep -cv '^good$\|^m[0-9]*\(-again\)\?$')" = 0 ]
finish
