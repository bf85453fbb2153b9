#!/bin/sh
# What people follow: events by revision, from any host and also afterwards; logs and consoles.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

events_pid=
if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi
on 2 vm events --format json >"$work/stream" 2>&1 &
events_pid=$!
judge() { jq -e -s "$@" >/dev/null; }
stream_has() { # JQ-CONDITION
    jq -e -s "map(select($1)) | length > 0" "$work/stream" >/dev/null 2>&1
}
uuid=$(on 1 vm create web --kernel "$guest" --append "test=idle" --memory 64M --host h1 --wait)
on 1 vm create other --kernel "$guest" --memory 64M --stopped >/dev/null
report "a start is followed from another host" wait_until stream_has \
    '.event == "state" and .name == "web" and .state == "running" and .host == "h1"'
report "who owns it too" stream_has '.event == "owner" and .stage == "started" and .epoch == 2'
revision=$(jq -s 'map(.revision) | max' "$work/stream")
on 3 vm stop web --wait >/dev/null
report "a stop as well" wait_until stream_has '.event == "wish" and .wish == "stopped"'
report "events come in order, each once" judge \
    '(map(.revision) | . == sort) and (length == (map([.revision, .uuid, .event]) | unique | length))' "$work/stream"
on 3 vm start web --wait >/dev/null
on 3 vm events web --since "$revision" --once --format json >"$work/later"
report "what came after a revision is told afterwards" judge \
    'map(select(.event == "wish") | .wish) == ["stopped", "running"]' "$work/later"
report "of one machine only, if that is asked for" judge 'all(.name == "web")' "$work/later"
on 1 vm events --since 1 --once >"$work/text"
report "as text" grep -q "^[0-9]* web running on h1$" "$work/text"
report "no secret is in it" sh -c "! grep -q token '$work/stream'"

logged() { on 1 vm logs web | grep -q "beat="; }
report "logs show the guest's console" wait_until logged
report "and ferry's own" sh -c "'$ferry' vm logs web --vmm --runtime-dir '$work/run1' | grep -q ."
on 1 vm console web </dev/null >"$work/console" 2>&1 &
console_pid=$!
report "so does the console" wait_until grep -q "beat=" "$work/console"
on 2 vm logs web >"$work/said" 2>&1
report "elsewhere, without TLS, it says where to ask" grep -q "host 'h1': .*no certificates.*ask there" "$work/said"
on 1 vm logs other >"$work/said" 2>&1
report "one that is nowhere is said to be" grep -q "is on no host" "$work/said"

on 1 vm delete web --wait >/dev/null
report "a deletion is told" wait_until stream_has ".event == \"gone\" and .uuid == \"$uuid\""
ferryd_kill 2
ended() { ! kill -0 "$events_pid" 2>/dev/null; }
report "a stream ends with its ferryd" wait_until ended
kill "$console_pid" 2>/dev/null
exit 0
