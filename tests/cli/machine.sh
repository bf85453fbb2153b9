#!/bin/sh
# A machine's life as seen from the command line.
# needs: kvm
. "$(dirname "$0")/lib.sh"

# ---- foreground ----
says "foreground run ends with the guest's status" 1 "*test=hello*result=pass*" \
    ferry run fg --kernel "$GUEST" --append test=hello --memory 32M --debug-exit
says "the machine that ended is listed" 0 "*fg *ended (exit)*" ferry ps -a
says "but not among the running" 0 "NAME*PID" ferry ps
check "exit.json" jq -e '.reason == "exit" and .guest_code == 1 and .exit_status == 1 and .name == "fg"' \
    "$FERRY_RUNTIME_DIR/fg/exit.json"
says "its console can be read afterwards" 0 "*test=hello*result=pass*" ferry logs fg
says "and ferry's log" 0 "*machine 'fg'*machine stopped: exit*" ferry logs --vmm fg
says "wait gives the status again" 1 "fg: exit" ferry wait fg
says "it can't be inspected any more" 1 "ferry: inspect: 'fg' is not running (exit)" ferry inspect fg
says "power-off without --debug-exit" 0 "*result=pass*" ferry run fg --kernel "$GUEST" --append test=hello --memory 32M
check "the name was used again" jq -e '.reason == "power-off" and .exit_status == 0' "$FERRY_RUNTIME_DIR/fg/exit.json"
says "rm" 0 "" ferry rm fg
says "rm twice" 1 "ferry: rm: there is no machine named 'fg'*" ferry rm fg
says "a kernel that is none" 1 "ferry: run: *kernel*" ferry run fg --kernel tests/cli/machine.sh
truncate -s 1099511627776 "$work/huge" # costs nothing, until somebody reads it
says "an initrd larger than the guest's memory" 1 "ferry: run: *no room for the initrd (1 TiB)*--memory*" \
    ferry run fg --kernel "$GUEST" --initrd "$work/huge" --memory 32M
says "a kernel that is larger than any" 1 "ferry: run: *kernel '*huge': the kernel's file has 1 TiB*" ferry run fg --kernel "$work/huge"
says "a kernel that is none, with --debug-exit" 2 "ferry: run: *kernel*" ferry run fg --kernel tests/cli/machine.sh --debug-exit
says "failed starts leave nothing" 1 "*no machine named 'fg'*" ferry logs fg
if [ "$(ferry run g --kernel "$GUEST" --append test=hello --memory 32M | grep -c result=pass)" = 1 ]; then
    ok "the last bytes reach a pipe"
else
    not_ok "the last bytes reach a pipe"
fi
# Nothing that ferry opens gets the number of a stream that its caller has closed.
head -c 64k /dev/urandom >"$work/closed.img" && cp "$work/closed.img" "$work/before.img"
sh -c 'exec ferry run g --kernel "$1" --append test=hello --memory 32M --disk "$2" <&- >&- 2>&-' - "$GUEST" "$work/closed.img"
check "without any stream a machine runs" jq -e '.reason == "power-off"' "$FERRY_RUNTIME_DIR/g/exit.json"
check "and nothing is printed to its disk" cmp "$work/before.img" "$work/closed.img"

# ---- a full disk ----
# shellcheck disable=SC2016 # the inner shell's
on_a_full_disk() {
    unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size=128k,mode=700 none "$0" || exit 99
        ferry run full --detach --kernel "$1" --append test=input --memory 32M >/dev/null || exit 98
        cat /dev/zero >"$0/filler" 2>/dev/null
        # Again and again: what is typed before the guest listens is lost.
        while echo quit; do sleep 0.2; done 2>/dev/null | timeout 300 ferry console full >/dev/null
        timeout 60 ferry wait full
        status=$?
        ferry kill full >/dev/null 2>&1 # else it would outlive this
        exit $status' "$FERRY_RUNTIME_DIR" "$GUEST"
}
mkdir -p "$FERRY_RUNTIME_DIR"
if unshare --map-root-user --mount true 2>/dev/null; then
    says "a machine that ends on a full disk has said how" 0 "full: power-off" on_a_full_disk
else
    skip "a machine that ends on a full disk has said how" "no mount namespace can be made"
fi

# ---- crash ----
says "a crash is reported, status 4" 4 "*the guest crashed*" \
    ferry run boom --kernel "$GUEST" --append "test=crash mode=triple" --memory 32M
check "exit.json has the report" jq -e '.reason == "crash" and .exit_status == 4 and (.crash_report | length > 100)' \
    "$FERRY_RUNTIME_DIR/boom/exit.json"
says "with --debug-exit as well" 4 "*the guest crashed*" \
    ferry run boom --kernel "$GUEST" --append "test=crash mode=triple" --memory 32M --debug-exit
last=$(jq -r .crash_report "$FERRY_RUNTIME_DIR/boom/exit.json" | grep . | tail -n 1)
check "ferry's log has all of it" sh -c 'ferry logs --vmm boom | grep -qF -- "$1"' sh "$last"
ferry rm boom

# ---- detached ----
says "detached run prints its name" 0 "web" run web input --cpus 2
says "ps" 0 "*web *running *2 *32 MiB *" ferry ps
check "ps as JSON" sh -c \
    'ferry ps --format json | jq -e ".[0] | .name == \"web\" and .state == \"running\" and .cpus == 2 and .memory == 33554432"'
says "a second start of the name is refused" 1 "ferry: run: a machine named 'web' is running*" run web hello
says "rm of a running machine is refused" 1 "ferry: rm: 'web' is running*" ferry rm web
check "inspect" sh -c 'ferry inspect web >"$1" && jq -e ".name == \"web\" and (.kernel | startswith(\"/\"))" "$1"' sh "$work/web.json"
says "pause" 0 "web: paused" ferry pause web
says "state is shown" 0 "*web *paused *" ferry ps
says "pause again" 0 "web: paused" ferry pause web
says "the power button needs a running machine" 1 "ferry: stop: 'web': can't press*paused*" ferry stop web
says "resume as JSON" 0 '{"state":"running","name":"web"}' ferry resume --format json web
check "stats" sh -c 'ferry stats web --format json | jq -e ".state == \"running\" and (.vcpus | length) == 2"'
says "stats as text" 0 "*state *running*vcpus*" ferry stats web

# ---- console ----
await sh -c 'ferry logs web | grep -q "input ready"'
printf 'one\ntwo\n' | ferry console web >"$work/console" &
console=$!
if await grep -q 'line="two"' "$work/console"; then
    ok "console passes lines both ways"
else
    not_ok "console passes lines both ways" "$(cat "$work/console")"
fi
ferry logs -f web >"$work/followed" &
follower=$!
ferry events web >"$work/events" &
events=$!
await sh -c "ferry stats web --format json >/dev/null && [ -s '$work/followed' ]"
says "reset" 0 "web: running" ferry reset web
if await sh -c '[ "$(ferry logs web | grep -c "input ready")" = 2 ]'; then
    ok "the guest starts again after reset"
else
    not_ok "the guest starts again after reset" "$(ferry logs web)"
fi
ferry wait web >"$work/waited" &
waiter=$!
printf 'quit\n' | ferry console web >/dev/null
wait $waiter
[ "$(cat "$work/waited")" = "web: power-off" ] && ok "wait ends with the machine" || not_ok "wait ends with the machine" "$(cat "$work/waited")"
wait $console && ok "console ends with the machine" || not_ok "console ends with the machine"
wait $follower
grep -q 'result=pass' "$work/followed" && ok "logs -f has the last words" || not_ok "logs -f has the last words" "$(cat "$work/followed")"
wait $events
grep -q 'stopped {"reason":"power-off"}' "$work/events" && grep -q ' reset' "$work/events" && ok "events" ||
    not_ok "events" "$(cat "$work/events")"

# ---- the description makes the same machine again ----
says "run --config" 0 "web" ferry run --detach --config "$work/web.json"
check "inspect prints what it was given" sh -c 'ferry inspect web | cmp - "$1"' sh "$work/web.json"
says "another name from the same description" 0 "web2" ferry run web2 --detach --config "$work/web.json" --memory 48M
check "is another machine" sh -c 'ferry inspect web2 |
    jq -e --slurpfile w "$1" ".name == \"web2\" and .memory == 50331648 and .uuid != \$w[0].uuid"' sh "$work/web.json"
says "stop kills what doesn't follow its button" 0 "web: killed" ferry stop --timeout 500ms web
check "and says so" jq -e '.reason == "killed" and .exit_status == 1' "$FERRY_RUNTIME_DIR/web/exit.json"
says "kill" 0 "web2: killed" ferry kill web2
says "kill of a dead machine" 1 "ferry: kill: 'web2' is not running (killed)" ferry kill web2
says "rm as JSON" 0 '{"name":"web2","state":"removed"}' ferry rm --format json web2
says "a detached run as JSON" 0 '{"name":"web2","state":"running"}' \
    ferry run web2 --detach --format json --kernel "$GUEST" --append test=idle --memory 32M
says "its end" 0 "web2: killed" ferry kill web2
says "rm --all" 0 "*web*web2*" ferry rm --all
check "leaves nothing" [ -z "$(ls "$FERRY_RUNTIME_DIR")" ]

name=$(ferry run --detach --kernel "$GUEST" --append test=idle --memory 32M)
case $name in
vm-*) ok "a machine without a name gets one" ;;
*) not_ok "a machine without a name gets one" "$name" ;;
esac
check "and is reached by it" ferry kill "$name"

# ---- where the kernel queues no more signals for this user ----
says "a machine starts without room for queued signals" 0 "full" \
    prlimit --sigpending=0 ferry run full --detach --kernel "$GUEST" --append test=spin --memory 32M
says "and its busy vCPU can be paused" 0 "full: paused" ferry pause full
says "and resumed" 0 "full: running" ferry resume full
says "and killed" 0 "full: killed" ferry kill full
ferry rm full

# ---- what a snapshot doesn't replace ----
run place input >/dev/null
mkfifo "$work/fifo"
says "a snapshot in the place of what is no file" 1 "ferry: snapshot: '*/fifo' is there and is no file*" \
    ferry snapshot place "$work/fifo"
check "which stays" [ -p "$work/fifo" ]
says "in that of a directory" 1 "ferry: snapshot: '$work' is a directory*" ferry snapshot place "$work"
echo mine >"$work/other" && ln "$work/other" "$work/linked.partial"
says "into what has another name, too" 1 "ferry: snapshot: '*/linked.partial' is there already*" \
    ferry snapshot place "$work/linked"
check "which nothing is written to" [ "$(cat "$work/other")" = mine ]
says "to a port that is none" 1 "ferry: migrate: *'65536' is not a port*" ferry migrate place tcp://127.0.0.1:65536
# shellcheck disable=SC2016
says "a description to a full disk" 1 "*can't be written: *" sh -c 'ferry inspect place >/dev/full'
# Whoever ignores SIGPIPE: the commands that go on for ever end with their reader.
# shellcheck disable=SC2016
says "a watch whose reader has gone" 1 "*can't be written: *" \
    sh -c 'trap "" PIPE; { timeout 100 ferry stats -w place; echo $? >"$1"; } | :; exit "$(cat "$1")"' - "$work/status"
ferry kill place >/dev/null

# ---- the machine is killed while a snapshot of it is written ----
run shot pattern --memory 128M >/dev/null
await sh -c 'ferry logs shot | grep -q "pattern ready"'
pid=$(ferry ps --format json | jq .[0].pid)
ferry snapshot shot "$work/shot" >/dev/null 2>&1 &
snapshot=$!
await sh -c "[ -s '$work/shot.partial' ] || [ -s '$work/shot' ]"
# Its command is told to end: it leaves nothing but a whole file.
kill -TERM $snapshot
wait $snapshot
check "a snapshot's command that was ended leaves nothing half-written" [ ! -e "$work/shot.partial" ]
await ferry snapshot shot "$work/settled" # the machine may still be at the first one
ferry snapshot shot "$work/shot" >/dev/null 2>&1 &
snapshot=$!
await sh -c "[ -s '$work/shot.partial' ] || [ -s '$work/shot' ]"
kill -HUP "$pid"
wait $snapshot
await is_state shot ended
check "killed during a snapshot, its process ends in order" jq -e '.reason == "killed"' "$FERRY_RUNTIME_DIR/shot/exit.json"
ferry rm shot

# ---- the process is killed, or hangs ----
run dead input >/dev/null
pid=$(ferry ps --format json | jq .[0].pid)
kill -9 "$pid"
await is_state dead ended
says "kill -9: ps shows it" 0 "*dead *ended (died)*" ferry ps -a
says "kill -9: wait says so" 1 "ferry: wait: the process of 'dead' died without a word: it was killed by force*" ferry wait dead
says "kill -9: stop says so" 1 "ferry: stop: 'dead' is not running (its process died*" ferry stop dead
says "kill -9: the name can be used again" 0 "dead" run dead input
pid=$(ferry ps --format json | jq .[0].pid)
kill -STOP "$pid"
says "a hung process is killed all the same" 0 "*its process * was killed*dead: killed" ferry kill dead
says "kill -9: rm" 0 "" ferry rm dead
run dead input --cpus 2 >/dev/null
pid=$(ferry ps --format json | jq .[0].pid)
kill -SEGV "$pid"
await is_state dead ended
says "a fault: wait says which" 1 "ferry: wait: the process of 'dead' died: SIGSEGV was sent by process $$ of *" ferry wait dead
ferry rm dead

# Its disk is free at once, although requests were under way.
truncate -s 8M "$work/busy.img"
busy() {
    ferry run "$1" --detach --kernel "$GUEST" --append "test=blk mode=loop" --memory 32M --disk "$work/busy.img"
}
busy first >/dev/null
await grep -q "blk loop" "$FERRY_RUNTIME_DIR/first/console.log"
pid=$(ferry ps --format json | jq .[0].pid)
kill -9 "$pid"
while kill -0 "$pid" 2>/dev/null; do :; done
says "kill -9: the disk can be used again" 0 "second" busy second
says "but not while somebody uses it" 1 "*busy.img' is in use by process *(ferry)*" busy third
check "its end" ferry kill second
ferry rm --all >/dev/null

# ---- signals ----
ferry run sig --kernel "$GUEST" --append test=idle --memory 32M >"$work/sig" 2>&1 &
pid=$!
await is_state sig running
kill -TERM $pid
await grep -q 'pressed the guest.s power button' "$work/sig" && ok "SIGTERM presses the button" || not_ok "SIGTERM presses the button" "$(cat "$work/sig")"
kill -TERM $pid
wait $pid
status=$?
[ $status = 1 ] && grep -q "was killed" "$work/sig" && ok "a second one kills" || not_ok "a second one kills" "$status" "$(cat "$work/sig")"
ferry run sig --kernel "$GUEST" --append test=idle --memory 32M >/dev/null 2>&1 &
pid=$!
await is_state sig running
kill -HUP $pid
wait $pid
[ $? = 1 ] && ok "SIGHUP kills" || not_ok "SIGHUP kills"
check "and cleans up" [ ! -e "$FERRY_RUNTIME_DIR/sig/control.sock" ]
finish
