#!/bin/sh
# Machines that are deleted while a host with their memory is lost: the name is free at once, and the
# tombstone stays until that host has ended what it had, or was removed from the cluster.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi

create() { # NAME: its UUID is in $uuid
    uuid=$(on "${ask:-1}" vm create "$1" --wait --kernel "$guest" --append "test=idle" --memory 64M --restart always)
}

find_home() { # NAME ASKED-HOST: where it is, and another host to ask
    home=$(machine_field "$1" host "$2" | tr -d h)
    ask=$((home % 3 + 1))
}

has_process() { # HOST
    [ -n "$(on "$1" ps --format json | jq -r ".. | objects | select(.name? == \"$uuid\") | .name")" ]
}

has_none() { # HOST
    ! has_process "$1"
}

is_unknown() { # NAME-OR-UUID
    says "there is no machine" on "$ask" vm show "$1"
}

waits_for() { # UUID HOST-NAME: the list of all says so
    on "$ask" vm ls --all --format json >"$work/said" 2>&1 &&
        [ "$(jq -r ".machines[] | select(.uuid == \"$1\") | .state + \" \" + (.left | join(\" \"))" "$work/said")" = "deleted $2" ]
}

tells() { # WORDS: of what has happened to that machine since $since
    on "$ask" vm events "$uuid" --once --since "$since" >"$work/said" 2>&1
    grep -q "$1" "$work/said"
}

create d
find_home d 1
first=$uuid lost=$home
since=$(on "$ask" vm ls --format json | jq .revision)
isolate "$lost"
report "a machine whose host is cut off is deleted" sh -c \
    "'$ferry' vm delete d --wait --runtime-dir '$work/run$ask' >/dev/null"
check "it is a machine no more" is_unknown d
check "its tombstone waits for the host" waits_for "$first" "h$lost"
on "$ask" vm ls --all >"$work/said"
report "the list of all says so to people" grep -q "^d .*deleted.*for host 'h$lost' to confirm" "$work/said"
report "the usual list doesn't have it" test "$(on "$ask" vm ls --format json | jq '.machines | length')" = 0
report "what is left of it can be looked at by its UUID" test "$(machine_field "$first" left[0] "$ask")" = "h$lost"
report "the status counts it" test "$(on "$ask" cluster status --format json | jq -r '"\(.machines) \(.machines_deleted)"')" = "0 1"
check "its process is still there" has_process "$lost"
create d
report "its name is another one's at once" test "$uuid" != "$first"
check "which runs" machine_is d running "$ask"
uuid=$first
heal
check "when the host is back it ends what it had" has_none "$lost"
check "and the tombstone goes" is_unknown "$first"
check "with an event" tells "has ended everywhere"
report "the host knew what it was" test "$(grep -c "has no record" "$work/log$lost")" = 0
check "the new machine of that name runs on" machine_is d running "$ask"
check "all hosts are alive" hosts_alive_at "$ask" 3
on "$ask" vm delete d --wait >/dev/null

# Taken elsewhere before it was deleted; and its first host never comes back.
create e
find_home e "$ask"
lost=$home
since=$(on "$ask" vm ls --format json | jq .revision)
power_off "$lost"
check "a machine runs elsewhere when its host is lost" machine_runs_off e "h$lost" "$ask"
on "$ask" vm delete e --wait >/dev/null
check "deleted there, it waits for its first host" waits_for "$uuid" "h$lost"
check "that host is removed" on "$ask" cluster remove "h$lost"
check "then nothing is waited for" is_unknown "$uuid"
check "with an event that says why" tells "host 'h$lost' was removed from the cluster"

report "no machine ran twice" witnesses
[ "$failed" = 0 ] || { sed 's/^/# /' "$work/witnesses" "$work/said"; show_logs; }
exit 0
