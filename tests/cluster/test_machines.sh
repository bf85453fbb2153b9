#!/bin/sh
# Machines of a cluster of three hosts: made, found again, restarted, and started elsewhere when their
# host is lost. Witness files say whether any ran twice.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

create() {
    on 1 vm create "$@" --kernel "$guest" --append "test=idle" --memory 64M --restart always
}

if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi
echo "ok - three hosts form a cluster"

uuid=$(create a --wait)
create b --wait >/dev/null
create c --wait >/dev/null
if [ -z "$uuid" ]; then
    echo "not ok - a machine runs"
    show_logs
    exit 1
fi
used=$(on 2 vm ls --format json | jq -r '[.machines[].host] | unique | length')
report "three machines run, spread over three hosts" test "$used" = 3

again=$(create d --stopped --request r1)
report "a request done twice makes one machine" test "$(create d --stopped --request r1)" = "$again"
report "a name is taken once" sh -c \
    "! '$ferry' vm create d --kernel '$guest' --runtime-dir '$work/run1' >/dev/null 2>&1"
check "one that isn't to start doesn't" machine_is d stopped
on 3 vm start d >/dev/null
check "it starts when asked on another host" machine_is d running
on 2 vm stop d >/dev/null
check "and stops" machine_is d stopped
on 2 vm delete d --wait >/dev/null
check "and goes" sh -c "! '$ferry' vm show d --runtime-dir '$work/run1' 2>/dev/null"

# The agent alone is lost: its machines run on, and are found again.
home=$(machine_field a host | tr -d h)
epoch=$(machine_field a epoch)
ferryd_kill "$home"
ferryd_start "$home"
wait_until machine_is a running "$home"
sleep 3 # longer than the deadline: it is renewed
report "a machine outlives its ferryd, in the same epoch" \
    test "$(machine_field a epoch "$home") $(machine_field a state "$home")" = "$epoch running"

pid=$(on "$home" ps --format json | jq -r ".. | objects | select(.name? == \"$uuid\") | .pid")
nsenter --target "$(cat "$work/init$home")" --pid kill -KILL "$pid"
epoch_grew() {
    [ "$(machine_field a epoch)" -gt "$epoch" ] && machine_is a running
}
check "one whose process was killed is started again, in a later epoch" epoch_grew

# The manager's host loses its power, with the store's leader or without.
lost=$(on 1 cluster status --format json | jq -r .manager | tr -d h)
other=$((lost % 3 + 1))
name=$(on "$other" vm ls --format json | jq -r ".machines[] | select(.host == \"h$lost\") | .name" | head -1)
create unwanted --host "h$lost" --wait >/dev/null
began=$(date +%s%N)
power_off "$lost"
unwanted_stops() { on "$other" vm stop unwanted >/dev/null 2>&1; }
wait_until unwanted_stops
check "a lost host's machine runs elsewhere" machine_runs_off "$name" "h$lost" "$other"
echo "# after $((($(date +%s%N) - began) / 1000000)) ms, with a lease of 3 s"
check "one that isn't wanted any more is shown as stopped" machine_is unwanted stopped "$other"
on "$other" vm delete unwanted >/dev/null
host_boot "$lost"
host_is_alive() {
    [ "$(on "$other" cluster hosts --format json | jq -r ".hosts[] | select(.name == \"h$lost\") | .state")" = alive ]
}
check "the host comes back" host_is_alive

# A host that is cut off: its machines stop by themselves before they start elsewhere.
cutoff=$(machine_field a host "$other" | tr -d h)
other=$((cutoff % 3 + 1))
isolate "$cutoff"
check "a machine of a host that is cut off runs elsewhere" machine_runs_off a "h$cutoff" "$other"
heal
lost=$cutoff
check "that host comes back too" host_is_alive
only_one() {
    count=0
    i=1
    while [ "$i" -le 3 ]; do
        count=$((count + $(on "$i" ps --format json | jq "[.. | objects | select(.name? == \"$uuid\")] | length")))
        i=$((i + 1))
    done
    [ "$count" = 1 ]
}
check "and its old process is gone" only_one

# ferryd is stopped for longer than the lease: the machine stops itself, and goes on somewhere.
stopped=$(machine_field a host "$other" | tr -d h)
other=$((stopped % 3 + 1))
ferryd_stop "$stopped"
check "a machine whose ferryd is stopped runs elsewhere" machine_runs_off a "h$stopped" "$other"
ferryd_continue "$stopped"
lost=$stopped
check "that ferryd finds its way back" host_is_alive

# A host that is lost for good, with its data, is removed and comes back as a new one.
gone=$((other % 3 + 1))
[ "$gone" = "$other" ] && gone=$((gone % 3 + 1))
ask=$((gone % 3 + 1))
report "a host that is alive isn't removed" sh -c \
    "! '$ferry' cluster remove h$gone --runtime-dir '$work/run$ask' 2>/dev/null"
power_off "$gone"
rm -rf "$work/data$gone"
removed() {
    on "$ask" cluster remove "h$gone" 2>/dev/null
}
check "a dead host is removed, once its machines are elsewhere" removed
token=$(on "$ask" cluster token)
host_boot "$gone" --join "$token@$(member_address "$ask")"
three_voters() {
    hosts_alive_at "$ask" 3 && [ "$(on "$ask" cluster status --format json | jq .voters)" = 3 ]
}
check "and joins again, as a voter" three_voters

if witnesses; then
    echo "ok - no machine ran twice"
else
    echo "not ok - no machine ran twice"
    failed=1
fi
sed 's/^/# /' "$work/witnesses"
[ "$failed" = 0 ] || show_logs
exit 0
