#!/bin/sh
# The port for monitors: its text is Prometheus' (promtool has a word, too), says
# what is true, and does so without a majority; what it isn't for is refused.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

facts 1 --metrics 10.77.0.1:9100
facts 2 --metrics 10.77.0.2:9100
facts 3 --metrics 10.77.0.3:9100
if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi
get() { # HOST [PATH [OPTION...]]
    where=$1
    path=${2:-metrics}
    [ $# -gt 1 ] && shift
    shift
    hub curl -s --max-time 20 "$@" "http://10.77.0.$where:9100/$path"
}
shows() { # LINE [HOST]
    get "${2:-1}" >"$work/text" && grep -qxF "$1" "$work/text"
}
well_formed() {
    python3 "$(dirname "$0")/metrics_check.py" <"$work/text" | sed 's/^/# /' | (! grep .)
}

on 1 vm create web --kernel "$guest" --append "test=idle" --memory 64M --with host:h2,soft=1000 --wait >/dev/null
on 1 vm create off --kernel "$guest" --memory 64M --stopped >/dev/null
report "a machine is shown where it runs" wait_until shows 'ferry_machine_running{machine="web",host="h2"} 1'
report "the text is well formed" well_formed
report "machines are counted by state" test "$(grep '^ferry_machines{' "$work/text" | grep -v ' 0$' | sort)" = \
    'ferry_machines{state="running"} 1
ferry_machines{state="stopped"} 1'
report "hosts are shown" grep -qxF 'ferry_host_promised_memory_bytes{host="h2"} 67108864' "$work/text"
# On a busy host its first start may have come too late for its deadline.
counted() { get 2 | awk '$1 == "ferry_machine_starts_total" && $2 >= 1 { found = 1 } END { exit !found }'; }
report "who started it has counted it" counted
one_leads() { [ "$(for i in 1 2 3; do get $i; done | grep -c '^ferry_raft_is_leader 1$')" = 1 ]; }
report "one member leads" wait_until one_leads
if promtool=$(scripts/debian-package prometheus); then
    report "promtool accepts it" sh -c "$promtool/usr/bin/promtool check metrics <'$work/text'"
else
    echo "ok - promtool accepts it # SKIP promtool (Debian: prometheus) is neither in the cache nor to be had"
fi
on 1 vm migrate web --to h3 --wait >"$work/said" 2>&1 || sed "s/^/# /" "$work/said"
report "a move is counted where it was decided" shows 'ferry_migrations_total{result="done"} 1' 2

report "another path is 404" test "$(get 1 other -o /dev/null -w '%{http_code}')" = 404
report "another method is 405" test "$(get 1 metrics -o /dev/null -w '%{http_code}' -X POST)" = 405
head -c 20000 /dev/zero | tr '\0' a >"$work/long"
report "a request without an end is cut off" sh -c "! ip netns exec '$net-hub' curl -sS --max-time 20 \
    -H @'$work/long' -H \"X: \$(cat '$work/long')\" http://10.77.0.1:9100/metrics 2>/dev/null"
# Those who say nothing take the places there are, until their time is up.
for i in 1 2 3 4 5 6 7 8 9 10; do
    ip netns exec "$net-hub" socat -u -T 30 EXEC:"sleep 30" TCP:10.77.0.1:9100 2>/dev/null &
    echo $! >>"$work/idle"
done
report "it answers again when idle clients were cut off" wait_until shows 'ferry_store_reachable 1'
kill $(cat "$work/idle") 2>/dev/null

power_off 2
power_off 3
report "without a majority it says so, and shows what the member knows" \
    wait_until shows 'ferry_store_reachable 0'
report "which is well formed too" well_formed
report "with Raft's numbers" grep -q '^ferry_raft_term [0-9]' "$work/text"
exit 0
