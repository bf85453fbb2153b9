# Whole hosts for tests: each a network, pid and mount namespace with a ferryd and machines. Sourced
# after lib.sh, whose members these hosts are. Needs /dev/kvm, but with without_machines=yes. With security=
# (empty) the cluster makes certificates of its own.
#
#   hosts_start N [V]    a cluster of N hosts, set up, V of them voters (all)
#   host_boot I          powers host I on; power_off I: all its processes die at once
#   ferryd_kill I, ferryd_stop I, ferryd_continue I, ferryd_runs I
#   on I COMMAND...      `ferry COMMAND` with host I's ferryd
#   facts I OPTION...   what ferryd of host I is told about it at each start
#   failure_points=yes   ferryd of host I looks for a failure point in $work/pointI (docs/cluster.md)
#   machine_field NAME FIELD [I]   what host I's ferryd says of it

[ -n "$without_machines" ] || { [ -r /dev/kvm ] && [ -w /dev/kvm ]; } ||
    skip_all "no /dev/kvm to run machines with"
unshare --fork --pid --mount --mount-proc true 2>/dev/null || skip_all "no right to make pid namespaces"
guest=$build/guest/testguest.elf
lease_times="--lease 3s --deadline 2s --stop 500ms --renew 400ms"

hosts_cleanup() {
    trap - EXIT
    i=1
    while [ "$i" -le "$members" ]; do
        kill -KILL "$(cat "$work/init$i" 2>/dev/null)" 2>/dev/null
        ferryd_kill "$i"
        i=$((i + 1))
    done
    wait 2>/dev/null
    cleanup 2>/dev/null
}
trap hosts_cleanup EXIT

facts() {
    one=$1
    shift
    echo "$*" >"$work/facts$one"
}

ferryd_start() {
    one=$1
    shift
    [ -f "$work/facts$one" ] && set -- $(cat "$work/facts$one") "$@"
    [ -n "$failure_points" ] && export FERRY_FAILURE_POINT="@$work/point$one"
    nsenter --target "$(cat "$work/init$one")" --pid --mount --net "$ferryd" \
        --data "$work/data$one" --name "h$one" --runtime-dir "$work/run$one" \
        --listen-peer "10.77.0.$one:7000" --listen-client "$(member_address "$one")" ${security---insecure} \
        --heartbeat 50ms --election 250ms-500ms --host-cpus 4 --host-memory 512M \
        --boot-id "boot-$one-$(cat "$work/boot$one")" --witness "$work/witness" \
        --stop-timeout 2s "$@" >>"$work/log$one" 2>&1 &
    echo $! >"$work/nsenter$one"
}

ferryd_pid() {
    pgrep -P "$(cat "$work/nsenter$1" 2>/dev/null)"
}

# With nsenter, which may only be about to start it, and stops with it, perhaps only now.
ferryd_kill() {
    ended=$(cat "$work/nsenter$1" 2>/dev/null) || return 0
    while ferryd_runs "$1"; do
        pkill -KILL -P "$ended"
        kill -CONT "$ended" 2>/dev/null
        sleep 0.02
    done
    wait "$ended" 2>/dev/null
    rm -f "$work/nsenter$1"
}

# Or is about to.
ferryd_runs() {
    grep -qs '^State:.[^ZX]' "/proc/$(cat "$work/nsenter$1" 2>/dev/null)/status"
}

ferryd_stop() {
    kill -STOP "$(ferryd_pid "$1")"
}

# nsenter stops with what it started.
ferryd_continue() {
    kill -CONT "$(cat "$work/nsenter$1")" "$(ferryd_pid "$1")"
}

host_boot() {
    one=$1
    shift
    boot=$(cat "$work/boot$one" 2>/dev/null || echo 0)
    echo $((boot + 1)) >"$work/boot$one"
    ip netns exec "$net-$one" unshare --fork --pid --mount --mount-proc --kill-child \
        sleep 100000 2>/dev/null &
    shell=$!
    until pgrep -P "$shell" >"$work/init$one"; do
        sleep 0.02
    done
    ferryd_start "$one" "$@"
}

power_off() {
    kill -KILL "$(cat "$work/init$1")"
    rm -f "$work/init$1"
    ferryd_kill "$1"
}

on() {
    one=$1
    shift
    "$ferry" "$@" --runtime-dir "$work/run$one"
}

hosts_start() {
    mkdir -p "$work/witness"
    network_start "$1"
    members=1
    host_boot 1 --found
    wait_until on 1 cluster init $lease_times >/dev/null 2>"$work/init" || return 1
    while [ "$members" -lt "$1" ]; do
        token=$(on 1 cluster token) || return 1
        members=$((members + 1))
        host_boot "$members" --join "$token@$(member_address 1)"
        wait_until hosts_alive "$members" || return 1
    done
    wait_until voters_are "${2:-$1}"
}

hosts_alive() {
    hosts_alive_at 1 "$1"
}

hosts_alive_at() { # ASKED-HOST NUMBER
    [ "$(on "$1" cluster hosts --format json 2>/dev/null |
        jq '[.hosts[] | select(.state == "alive")] | length')" = "$2" ]
}

machine_field() { # NAME FIELD [HOST]
    on "${3:-1}" vm show "$1" --format json 2>/dev/null | jq -r ".$2"
}

machine_is() { # NAME STATE [HOST]
    [ "$(machine_field "$1" state "$3")" = "$2" ]
}

# It runs, and on another host than before.
machine_runs_off() { # NAME HOST-NAME ASKED-HOST
    machine_is "$1" running "$3" && [ "$(machine_field "$1" host "$3")" != "$2" ]
}

witnesses() {
    "$build/tests/cluster/witness_check" "$work"/witness/*.witness >"$work/witnesses" 2>&1
}

show_logs() {
    i=1
    while [ "$i" -le "$members" ]; do
        tail -n 25 "$work/log$i" | sed "s/^/# h$i: /"
        i=$((i + 1))
    done
}
