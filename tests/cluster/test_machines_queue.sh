#!/bin/sh
# Moves beyond what may be under way at a time wait, say why, and can be called off; a drain that
# can't empty its host says why and ends.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi

create() {
    on 1 vm create "$@" --wait --kernel "$guest" --append "test=idle" --memory 32M >/dev/null
}

waits() { # NAME WORDS
    on 1 vm show "$1" --format json | jq -r .waits | grep -q "$2"
}

has_begun() { # NAME
    stage=$(on 1 vm show "$1" --format json | jq -r '.migration.stage // "none"')
    [ "$stage" = reserved ] || [ "$stage" = incoming ]
}

process_of() { # NAME: its process on host 1, by the number it has there
    uuid=$(machine_field "$1" uuid)
    on 1 ps --format json | jq -r ".. | objects | select(.name? == \"$uuid\") | .pid"
}

signal() { # SIGNAL PID
    nsenter --target "$(cat "$work/init1")" --pid kill "-$1" "$2"
}

check "a host is drained" on 1 cluster drain h2
check "another one is" on 1 cluster drain h3
create a --no-ha
create b --no-ha
create c
create d
create pinned --host h1
on 1 cluster undrain h2
on 1 cluster undrain h3
report "five machines run on one host" test "$(on 1 vm ls --format json | jq -r '[.machines[].host] | unique | join(" ")')" = h1

in_pages() { # LIMIT: all names, one page after the other
    python3 - "$work/run1/.ferryd.sock" "$1" <<'EOF'
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
lines = s.makefile("rw")
lines.readline()
names, last, pages, more = [], "", 0, True
while more:
    print(json.dumps({"id": 1, "method": "vm.list", "params": {"limit": int(sys.argv[2]), "after": last}}), file=lines, flush=True)
    page = json.loads(lines.readline())["result"]
    names += [m["name"] for m in page["machines"]]
    last, more, pages = page["last"], page["more"], pages + 1
print(pages, *sorted(names))
EOF
}
report "the list comes in pages" test "$(in_pages 2)" = "3 a b c d pinned"
report "or in one" test "$(in_pages 5)" = "1 a b c d pinned"

# Two that don't answer: their moves go on when they do, and not before.
a=$(process_of a) b=$(process_of b) # who is stopped isn't listed
signal STOP "$a"
signal STOP "$b"
ask() { # NAME
    on 1 vm migrate "$1" --to h2 >/dev/null || report "a move is asked for" false
}
# Whoever waits asks a host that has nothing to do with it; that one's ferryd comes and goes meanwhile.
on 3 vm migrate a --to h2 --wait >"$work/waited" 2>&1 &
waiter=$!
ask b
check "a move begins" has_begun a
check "a second one as well" has_begun b
report "whoever waits in vain is told for what" says "'c' is still on its way to 'h2': it is running on 'h1', and waits" \
    on 1 vm migrate c --to h2 --wait --timeout 1s
check "the third waits for its turn" waits c "2 moves from or to host 'h.' are under way"
on 1 vm migrate d --to h3 >/dev/null
check "the fourth is behind it" waits d "to move to 'h3' (2 of 2 that wait): 2 moves"
on 1 vm migrate c --to h2 >/dev/null # once more: it keeps its place
report "who was first stays it" waits c "to move to 'h2' (1 of 2 that wait)"
report "a page has the places too" sh -c "'$ferry' vm ls --runtime-dir '$work/run1' | grep -q '^d .*2 of 2 that wait'"
report "the status counts them" test "$(on 1 cluster status --format json | jq -r '"\(.moves) \(.moves_waiting)"')" = "2 2"
on 1 vm migrate d --to h1 >/dev/null # where it is
report "one that is to stay waits no more" waits d '^$'
on 1 vm ls >"$work/said"
report "the list says so" grep -q "^c .*to move to 'h2': 2 moves" "$work/said"
on 1 vm explain c >"$work/said"
report "explain does as well" grep -q "^it waits: to move to 'h2'" "$work/said"
report "it can be called off" sh -c "'$ferry' vm migrate c --cancel --runtime-dir '$work/run1' >/dev/null"
report "then it waits for nothing" waits c '^$'
report "one that waits for nothing has nothing to call off" says "isn't on the move" on 1 vm migrate c --cancel
ferryd_kill 3
ferryd_start 3
check "a ferryd comes back" hosts_alive_at 3 3
signal CONT "$a"
signal CONT "$b"
moves_have_ended() {
    ! has_begun a && ! has_begun b && machine_is a running && machine_is b running
}
check "the moves end when they answer" moves_have_ended
wait "$waiter"
report "whoever waited by the ferryd that was away is told so" grep -q "^a$\|was called off" "$work/waited"

on 1 cluster drain h1 --wait >"$work/drained" 2>&1
report "a drain that can't empty its host ends with an error" test $? = 1
report "which says who can't leave" grep -q "pinned: it can't leave 'h1'" "$work/drained"
report "and that it was given up" grep -q "1 machine is still on 'h1' and can't leave" "$work/drained"
report "the others have left" test "$(on 1 vm ls --format json | jq -r '[.machines[] | select(.host == "h1") | .name] | join(" ")')" = pinned
report "the machine that stays runs" machine_is pinned running
report "a drain ends when its host is empty" on 1 cluster drain h3 --wait --timeout 60s
report "no machine ran twice" witnesses
[ "$failed" = 0 ] || { sed 's/^/# /' "$work/witnesses" "$work/drained" "$work/waited"; show_logs; }
exit 0
