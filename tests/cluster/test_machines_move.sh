#!/bin/sh
# Machines that the cluster moves while they run: there and back, with a disk, and with a side that dies.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi
truncate -s 8M "$work/disk.img"
uuid=$(on 1 vm create disk --kernel "$guest" --append "test=blk mode=loop seconds=0" --memory 64M \
    --disk "$work/disk.img" --restart always --wait)
on 1 vm create idle --kernel "$guest" --append "test=idle" --memory 64M --restart always --wait >/dev/null
report "two machines run" test -n "$uuid"

next_host() { # after the one it is on
    here=$(machine_field "$1" host "${2:-1}" | tr -d h)
    echo $((here % 3 + 1))
}

beat() { # the guest's count of seconds
    grep -ho "beat=[0-9]*" "$work"/run*/"$(machine_field idle uuid)"/console.log | tr -d 'a-z=' | sort -n | tail -1
}

move() { # NAME: to the next host
    to=$(next_host "$1")
    on 1 vm migrate "$1" --to "h$to" --wait >"$work/said" 2>&1 || { sed 's/^/# /' "$work/said"; return 1; }
    machine_is "$1" running && [ "$(machine_field "$1" host)" = "h$to" ]
}

sleep 2
before=$(beat) epoch=$(machine_field idle epoch)
report "a machine moves" move idle
report "and on" move idle
report "and back" move idle
counts_on() { [ "$(beat)" -gt "$before" ]; }
report "it counted on, and wasn't started anew" wait_until counts_on
report "in the epochs of its moves" test "$(machine_field idle epoch)" = $((epoch + 3))
report "a machine with a disk moves while it writes" move disk
report "and on" move disk
report "a move to a host that isn't there is refused" sh -c \
    "! '$ferry' vm migrate idle --to h9 --runtime-dir '$work/run1' 2>/dev/null"

# A move that isn't done is called off: its target's ferryd stands, so that it can't begin.
target=$(next_host idle)
ask=$((target % 3 + 1))
ferryd_stop "$target"
on "$ask" vm migrate idle --to "h$target" >/dev/null
reserved() { [ "$(machine_field idle migration.stage "$ask")" = reserved ]; }
report "a move waits for its target" wait_until reserved
call_off() { on "$ask" vm migrate idle --cancel >/dev/null; }
report "it can be called off" call_off
called_off() { [ "$(machine_field idle migration.stage "$ask")" = aborted ] && machine_is idle running "$ask"; }
report "and is" wait_until called_off
ferryd_continue "$target"
wait_until hosts_alive_at "$ask" 3
on "$ask" vm migrate idle --cancel >"$work/said" 2>&1
report "one that isn't on the move says so" grep -q "isn't on the move" "$work/said"

# A drained host is empty in the end, and nothing goes there.
drained=$(machine_field disk host)
on 1 cluster drain "$drained"
is_empty() {
    [ "$(on 1 cluster hosts --format json | jq -r ".hosts[] | select(.name == \"$drained\") | .machines")" = 0 ]
}
report "a drained host's machines move away" wait_until is_empty
report "and run elsewhere" wait_until machine_is disk running
on 1 vm explain disk >"$work/said"
report "explain says why a host is none to go to" grep -q "^$drained .*drain" "$work/said"
report "a move there is refused" sh -c \
    "! '$ferry' vm migrate disk --to '$drained' --runtime-dir '$work/run1' 2>/dev/null"
on 1 vm create big --kernel "$guest" --memory 2G >/dev/null
is_pending() {
    machine_is big pending && machine_field big reason | grep -q memory
}
report "a machine that fits nowhere waits, and says why" wait_until is_pending
on 1 vm delete big --wait >/dev/null
on 1 cluster undrain "$drained"

# The target's ferryd dies as the move begins: it is called off, or done; the machine runs once.
target=$(next_host idle)
on "$((target % 3 + 1))" vm migrate idle --to "h$target" >/dev/null
ferryd_kill "$target"
ferryd_start "$target"
settled() {
    machine_is idle running "$1" &&
        case $(machine_field idle migration.stage "$1") in null | aborted) ;; *) false ;; esac
}
report "it runs although the target's ferryd died" wait_until settled "$((target % 3 + 1))"

# Each host of a move loses its power on the way.
for side in target source; do
    to=$(next_host idle)
    from=$(machine_field idle host | tr -d h)
    [ "$side" = target ] && victim=$to || victim=$from
    ask=$((victim % 3 + 1))
    on "$ask" vm migrate idle --to "h$to" >/dev/null
    sleep 0.5
    power_off "$victim"
    report "it runs although the $side lost its power" wait_until settled "$ask"
    host_boot "$victim"
    wait_until hosts_alive 3
done

if witnesses; then
    echo "ok - no machine ran twice, no disk had two writers"
else
    echo "not ok - no machine ran twice, no disk had two writers"
    failed=1
fi
sed 's/^/# /' "$work/witnesses"
[ "$failed" = 0 ] || show_logs
exit 0
