#!/bin/sh
# What the cluster does, on one screen: three hosts in namespaces of their own, machines placed among
# them, one moved while it counts, a host lost and everything back. `make demo` runs it; on a terminal
# with a table that follows. The status is 0 only when all of it was so.
# needs: kvm
. "$(dirname "$0")/lib.sh"
skip_all() {
    echo "demo: this host can't: $1"
    exit "${DEMO_SKIP:-1}"
}
. "$(dirname "$0")/hosts.sh"

start=$(date +%s%N)
: >"$work/story"
asked=1
painter=

seconds_since() { # of date +%s%N
    awk "BEGIN { printf \"%.1f\", ($(date +%s%N) - $1) / 1e9 }"
}

table() {
    on "$asked" cluster hosts 2>/dev/null | command cut -c1-100
    echo
    on "$asked" vm ls 2>/dev/null | command cut -c1-100
}

paint() {
    while :; do
        picture=$(tail -n 12 "$work/story"; echo; table)
        printf '\033[H\033[2J%s\n' "$picture"
        sleep 0.3
    done
}

say() {
    line="$(seconds_since "$start") s  $*"
    echo "$line" >>"$work/story"
    [ -n "$painter" ] || echo "$line"
}

show() {
    [ -n "$painter" ] || table | sed 's/^/        /'
}

demo_end() {
    [ -n "$painter" ] && kill "$painter" 2>/dev/null
    hosts_cleanup
}
trap demo_end EXIT

must() { # WHAT COMMAND...: or it ends here
    what=$1
    shift
    wait_until "$@" && return
    say "FAILED: $what"
    [ -n "$painter" ] && { kill "$painter"; painter=; cat "$work/story"; }
    show_logs
    exit 1
}

beat() { # the last second that the guest has counted, on any host
    grep -ho "beat=[0-9]*" "$work"/run*/"$counter"/console.log 2>/dev/null | tr -d 'a-z=' | sort -n | tail -1
}
counts_beyond() {
    [ "$(beat)" -gt "$1" ] 2>/dev/null
}
all_run() {
    [ "$(on "$asked" vm ls --format json | jq '[.machines[] | select(.state == "running")] | length')" = 4 ]
}
all_run_off() {
    all_run && ! on "$asked" vm ls --format json | jq -e ".machines[] | select(.host == \"$1\")" >/dev/null
}

say "starting three hosts, each with a network, processes and a ferryd of its own"
hosts_start 3 || must "three hosts form a cluster" false
if [ -t 1 ]; then
    paint &
    painter=$!
fi
say "they are a cluster: each is a voter, one may be lost"

new() {
    on 1 vm create "$@" --kernel "$guest" --append "test=idle" --memory 64M --restart always
}
counter=$(new counter --with host:h2,soft=1000)
new db-1 --label db --away label:db >/dev/null
new db-2 --label db --away label:db >/dev/null
new web >/dev/null
must "four machines run" all_run
say "four machines run; db-1 and db-2 keep away from each other"
must "counter counts" counts_beyond 1
show

from=$(machine_field counter host)
before=$(beat)
epoch=$(machine_field counter epoch)
say "counter has counted to $before on $from: it moves to h3 while it runs"
began=$(date +%s%N)
on 1 vm migrate counter --to h3 --wait >"$work/said" 2>&1 || { say "$(cat "$work/said")"; must "it moves" false; }
say "it runs on $(machine_field counter host), $(seconds_since "$began") s later"
must "it counts on" counts_beyond $((before + 1))
must "it is the same run" test "$(machine_field counter epoch)" = $((epoch + 1))
say "and counts on: $(beat). It was never started anew"
show

lost=$(on 1 vm ls --format json | jq '[.machines[] | select(.host == "h3")] | length')
say "h3 loses its power, with $lost of the machines"
began=$(date +%s%N)
power_off 3
must "all machines run elsewhere" all_run_off h3
say "after $(seconds_since "$began") s all four run on the two others (a host counts as dead after 3 s)"
show

say "h3 has power again"
host_boot 3
must "h3 is back" hosts_alive 3
say "and is one of the hosts again"
show

must "no machine ran twice" witnesses
say "each machine's own notes say that it never ran twice"
[ -n "$painter" ] && { kill "$painter"; wait "$painter" 2>/dev/null; painter=; printf '\n'; cat "$work/story"; }
echo "all of it in $(seconds_since "$start") s"
