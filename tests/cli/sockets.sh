#!/bin/sh
# The control socket, as any program would use it, and misuse of it.
# needs: kvm
. "$(dirname "$0")/lib.sh"

run m idle >/dev/null
socket=$FERRY_RUNTIME_DIR/m/control.sock
console=$FERRY_RUNTIME_DIR/m/console.sock
mode() { ls -l "$1" | cut -c1-10; }
check "sockets are their owner's alone" [ "$(mode "$socket") $(mode "$console")" = "srw------- srw-------" ]

# answers NAME REQUEST FILTER: the answer passes through jq -e.
answers() {
    answer=$(ask m "$2")
    if printf '%s\n' "$answer" | jq -e "$3" >/dev/null 2>&1; then ok "$1"; else not_ok "$1" "$answer"; fi
}
hello=$(socat -t 5 - "UNIX-CONNECT:$socket" </dev/null | head -n 1)
case $hello in
'{"hello":{"protocol":"1.'*) ok "hello comes first" ;;
*) not_ok "hello comes first" "$hello" ;;
esac
answers "query" '{"id":1,"method":"query"}' '.id == 1 and .result.state == "running" and .result.name == "m"'
answers "unknown method" '{"id":2,"method":"x"}' '.error.code == "unknown-method"'
answers "garbage" 'what?' '.id == null and .error.code == "parse-error"'
answers "parameters are checked" '{"id":"a","method":"memory.read","params":{"gpa":0,"length":1000000}}' '.error.code == "invalid-params"'
answers "memory.read" '{"id":3,"method":"memory.read","params":{"gpa":1048576,"length":4}}' '.result.data | length == 8'

# ---- a move by sockets that don't fit ----
place='{"to":"tcp://127.0.0.1:1"}'
answers "a machine makes no socket itself" '{"id":6,"method":"migrate.start","params":'$place'}' \
    '.error.code == "invalid-params" and (.error.message | contains("3 unconnected TCP sockets"))'
for wrong in "AF_INET SOCK_STREAM 2" "AF_INET SOCK_STREAM 4" "AF_INET SOCK_DGRAM 3" "AF_INET6 SOCK_STREAM 3" "AF_UNIX SOCK_STREAM 3"; do
    # shellcheck disable=SC2086 # three words
    check "nor takes $wrong" sh -c 'tests/migrate/start_move.py "$0" "$1" $2 | jq -e ".error.code == \"invalid-params\""' \
        "$socket" "$place" "$wrong"
done
check "nor an interface by its name" sh -c 'tests/migrate/start_move.py "$0" "$1" AF_INET6 SOCK_STREAM 3 |
    jq -e ".error.message | contains(\"by its number\")"' "$socket" '{"to":"tcp://[fe80::1%lo]:1"}'
check "but by those that fit it tries" sh -c 'tests/migrate/start_move.py "$0" "$1" | jq -e ".result.phase"' "$socket" "$place"
check "which ends" await sh -c 'ferry migrate m --status --format json | jq -e ".phase == \"failed\""'

# ---- two clients, one of them rude ----
ferry events m >"$work/events" &
events=$!
# One byte too many: with more, a client may be told off while it still writes, and not look.
head -c 1048577 /dev/zero | tr '\0' x | socat -t 5 - "UNIX-CONNECT:$socket" >"$work/long" 2>/dev/null
grep -q '"too-large"' "$work/long" && ok "an over-long line is refused" || not_ok "an over-long line is refused" "$(tail -c 300 "$work/long")"
head -c 200000 /dev/urandom | socat -t 5 - "UNIX-CONNECT:$socket" >/dev/null 2>&1
printf '{"id":1,"meth' | socat -t 1 - "UNIX-CONNECT:$socket" >/dev/null 2>&1
answers "the machine doesn't mind" '{"id":4,"method":"query"}' '.result.state == "running"'
ferry pause m >/dev/null
await grep -q paused "$work/events" && ok "another client's pause is seen" || not_ok "another client's pause is seen" "$(cat "$work/events")"
ferry resume m >/dev/null

# Many clients at once, each with many requests.
for client in 1 2 3 4 5 6 7 8; do
    for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        echo "{\"id\":$n,\"method\":\"stats\"}"
    done | socat -t 30 - "UNIX-CONNECT:$socket" >"$work/client$client" &
    clients="$clients $!"
done
# shellcheck disable=SC2086 # a list of process ids
wait $clients
total=$(cat "$work"/client? | grep -c '"result"')
[ "$total" = 160 ] && ok "8 clients with 20 requests each" || not_ok "8 clients with 20 requests each" "answers: $total"

# A client that asks without reading: it is cut off or waits, and nobody else does.
yes '{"id":1,"method":"stats"}' | head -n 20000 | socat -u - "UNIX-CONNECT:$socket" >/dev/null 2>&1 &
deaf=$!
answers "a client that doesn't read" '{"id":5,"method":"query"}' '.result.state == "running"'
kill $deaf 2>/dev/null
wait $deaf 2>/dev/null

# ---- the end is told ----
ferry kill m >/dev/null
wait $events && grep -q 'stopped {"reason":"killed"}' "$work/events" && ok "subscribers hear of the end" ||
    not_ok "subscribers hear of the end" "$(cat "$work/events")"
check "no socket is left" [ ! -e "$socket" ] && check "nor the console's" [ ! -e "$console" ]
finish
