#!/bin/sh
# What a guest is told of CPU time that was withheld from it, by KVM's record and by ferry's page, while it is paused, in
# a snapshot, and moved: it never goes back, and time in which the guest wasn't to run isn't in it. What it hears may have
# in it what ferry withheld and what the host's own scheduler did, and no more.
# needs: kvm
. "$(dirname "$0")/lib.sh"
SLACK_MS=100 # the guest's reports and ferry's numbers aren't read at the same moment

spin() { at "$1" run "$2" "spin seconds=0" --cpu-affinity 0 --cpu-backend own >/dev/null; }
stat_of() { at "$1" ferry stats "$2" --format json | jq ".vcpus[0].$3"; }
withheld() { stat_of "$1" m withheld_ns; }
delayed() { stat_of "$1" m run_delay_ns; }
reports() { grep -c 'steal_ms=' "$work/$1/m/console.log"; }
has_reported() { [ "$(reports "$1")" -gt "$2" ]; }
# Waits for N reports that begin from now on.
hear() { await has_reported "$1" "$(($(reports "$1") + $2))"; }
told() { sed -n "s/.*$2=\([0-9a-z]*\).*/\1/p" "$work/$1/m/console.log" | tail -n 1; }
has_worked() { [ "$(stat_of "$1" "$2" cpu_ns)" -gt "$3" ]; }
# A while of HOST's other machine: 500 ms of its CPU time.
a_while() { await has_worked "$1" "$2" "$(($(stat_of "$1" "$2" cpu_ns) + 500000000))"; }

# between LOW VALUE HIGH
between() {
    [ "$2" -ge "$1" ] && [ "$2" -le "$3" ] && return
    echo "$2 is not from $1 to $3"
    return 1
}
# begin HOST, end HOST TEST [DELAYED]: what the guest was told since is what it was kept from, DELAYED ns of it already
# known as the host's (of a process that is gone).
begin() {
    from_withheld=$(withheld "$1") from_delayed=$(delayed "$1")
    hear "$1" 1
    from_steal=$(told "$1" steal_ms) from_page=$(told "$1" withheld_ms)
}
end() {
    hear "$1" 2
    end_page=$(told "$1" withheld_ms) end_steal=$(told "$1" steal_ms)
    end_withheld=$((($(withheld "$1") - from_withheld) / 1000000))
    end_delayed=$((($(delayed "$1") - ${3:-$from_delayed}) / 1000000))
    check "$2: the page" between "$from_page" "$end_page" $((from_page + end_withheld + SLACK_MS))
    if [ "$end_steal" = none ]; then
        skip "$2: steal time" "this KVM has none"
    else
        check "$2: steal time" between "$from_steal" "$end_steal" $((from_steal + end_withheld + end_delayed + SLACK_MS))
    fi
}

check "two machines on one CPU" spin a m
check "of which one keeps the other waiting" spin a other
hear a 2
check "time is withheld" [ "$(withheld a)" -gt 0 ]

begin a
at a ferry pause m >/dev/null
paused=$(withheld a)
a_while a other
check "a paused machine's time isn't withheld" [ "$(withheld a)" = "$paused" ]
at a ferry resume m >/dev/null
end a "over a pause"

# Paused, so that all that was withheld until then can be read.
begin a
at a ferry pause m >/dev/null
paused=$(withheld a) delay=$(($(delayed a) - from_delayed))
at a ferry snapshot m "$work/snap" >/dev/null
at a ferry kill m >/dev/null
a_while a other
at a ferry restore --detach "$work/snap" >/dev/null
check "a restored machine goes on from the same sum" [ "$(withheld a)" = "$paused" ]
at a ferry resume m >/dev/null
end a "over a snapshot" $((-delay))

spin b third
begin a
at a ferry pause m >/dev/null
paused=$(withheld a) delay=$(($(delayed a) - from_delayed))
receive b
at a ferry migrate m "$place" --downtime 10s --timeout 2m >/dev/null 2>&1
check "a moved machine goes on from the same sum" [ "$(withheld b)" = "$paused" ]
at b ferry resume m >/dev/null
end b "over a move" $((-delay))
for host in a b; do
    for name in m other third; do at $host ferry kill $name >/dev/null 2>&1; done
done
finish
