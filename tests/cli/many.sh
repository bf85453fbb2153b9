#!/bin/sh
# 50 machines started and ended in parallel: nothing is left of them.
# needs: kvm
. "$(dirname "$0")/lib.sh"
count=50

processes() {
    total=0
    for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe" 2>/dev/null) in */ferry) total=$((total + 1)) ;; esac
    done
    echo $total
}
numbers=$(i=1; while [ $i -le $count ]; do echo $i; i=$((i + 1)); done)
before=$(processes)

starts=
for i in $numbers; do
    run "m$i" idle --memory 16M >"$work/start$i" 2>&1 &
    starts="$starts $!"
done
failed=
for pid in $starts; do wait "$pid" || failed="$failed $pid"; done
[ -z "$failed" ] && ok "$count machines started side by side" || not_ok "$count machines started side by side" "$(cat "$work"/start*)"
all_run() { [ "$(ferry ps --format json | jq '[.[] | select(.state == "running")] | length')" = $count ]; }
await all_run && ok "all of them run" || not_ok "all of them run" "$(ferry ps -a)"

# A third each by kill, by kill -9, by stop.
pids=$(ferry ps --format json | jq -r '.[] | select((.name | ltrimstr("m") | tonumber) % 3 == 0) | .pid')
ends=
for i in $numbers; do
    case $((i % 3)) in
    1) ferry kill "m$i" ;;
    2) ferry stop --timeout 100ms "m$i" ;;
    esac >"$work/end$i" 2>&1 &
    ends="$ends $!"
done
# shellcheck disable=SC2086 # a list of process ids
kill -9 $pids
failed=
for pid in $ends; do wait "$pid" || failed="$failed $pid"; done
[ -z "$failed" ] && ok "all of them ended" || not_ok "all of them ended" "$(cat "$work"/end*)"
none_runs() { [ "$(ferry ps --format json | jq length)" = 0 ]; }
await none_runs && ok "none runs any more" || not_ok "none runs any more" "$(ferry ps -a)"
as_before() { [ "$(processes)" = "$before" ]; }
await as_before && ok "no process is left" || not_ok "no process is left" "$before before, $(processes) now"

# The names of those that were killed hard can be used at once, by one of two that try.
i=3 winners=0
while [ $i -le 30 ]; do
    run "m$i" idle --memory 16M >/dev/null 2>&1 &
    first=$!
    run "m$i" idle --memory 16M >/dev/null 2>&1 &
    second=$!
    wait $first && winners=$((winners + 1))
    wait $second && winners=$((winners + 1))
    i=$((i + 3))
done
[ $winners = 10 ] && ok "of two starts of one name exactly one succeeds" || not_ok "of two starts of one name exactly one succeeds" "$winners of 10"
for i in 3 6 9 12 15 18 21 24 27 30; do ferry kill "m$i"; done >/dev/null
check "rm --all" ferry rm --all
left=$(find "$FERRY_RUNTIME_DIR" -mindepth 1 ! -name '.lock' ! -name '.fact-*')
[ -z "$left" ] && ok "no file is left" || not_ok "no file is left" "$left"
finish
