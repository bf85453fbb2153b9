#!/bin/sh
# A machine with vsock moves and is restored: connections end there, the guest is told so, new ones work at once. A move
# that fails ends none.
# needs: kvm
. "$(dirname "$0")/lib.sh"

sock=$work/v.sock
says_console() { grep -q "$2" "$work/$1/vs/console.log"; }
head -c 300000 /dev/urandom >"$work/data"
echoed() { # a host's client sends data to the guest's port 7, and gets it back behind the line OK
    { printf 'CONNECT 7\n' && cat "$work/data"; } | timeout 100 socat -t 60 - "UNIX-CONNECT:$sock" >"$work/back" || return 1
    tail -n +2 "$work/back" | cmp - "$work/data"
}
# A client that stays: what it is told to send goes through a FIFO, what it hears into a file.
connect() {
    rm -f "$work/talk" && mkfifo "$work/talk" && : >"$work/heard-back"
    rm -f "$work/hung-up"
    { socat -t 1 "UNIX-CONNECT:$sock" - <"$work/talk" >"$work/heard-back" 2>/dev/null; : >"$work/hung-up"; } &
    exec 7>"$work/talk"
    printf 'CONNECT 7\n' >&7
}
talks() { echo "$1" >&7 && await grep -qx "$1" "$work/heard-back"; }
# The client has seen the end of its connection.
hung_up() { await [ -e "$work/hung-up" ]; }

# Who listens for the guest: each connection leaves a line.
socat "UNIX-LISTEN:${sock}_1000,fork" "SYSTEM:cat >>$work/greetings; echo thanks" >/dev/null 2>&1 &
listener=$!
echo $listener >>"$work/receivers" # ended with them
# greeted HOST TIMES: the guest there has had its answer, too.
greeted() { says_console "$1" 'vsock answer=' && [ "$(grep -c 'hello from the guest' "$work/greetings")" -ge "$2" ]; }
await [ -S "${sock}_1000" ]

at a run vs "vsock connect=1000" --vsock "cid=42,socket=$sock" --debug-exit >/dev/null
await says_console a "vsock ready cid=42"
connect
check "a client has a connection" talks first

receive b
kill -STOP "$receiver"
at a ferry migrate vs "$place" --timeout 1s >"$work/said" 2>&1
check "a move fails" [ $? = 1 ]
check "the connection is still there" talks second
kill -CONT "$receiver"
kill "$receiver" 2>/dev/null
await gone "$receiver"

receive b
check "a move" at a ferry migrate vs "$place" --downtime 3s
check "ends the client's connection" hung_up
check "of which the guest is told" await says_console b "vsock reset open=1"
check "it connects to the host again" await greeted b 2
check "a new client is answered" echoed
check "and again" echoed

exec 7>&-
connect
check "a client has a connection there" talks third
says "a snapshot" 0 "*written" at b ferry snapshot vs "$work/snap"
check "leaves it" talks fourth
at b ferry kill vs >/dev/null
check "the machine's end ends it" hung_up
at a ferry rm vs >/dev/null 2>&1
says "the snapshot is restored" 0 "vs" at a ferry restore --detach "$work/snap"
check "the guest is told that its connections are gone" await says_console a "vsock reset open=1"
check "it connects to the host once more" await greeted a 3
check "a new client is answered there" echoed
printf 'CONNECT 8\n' | timeout 100 socat -t 10 - "UNIX-CONNECT:$sock" >/dev/null
at a ferry wait vs >/dev/null 2>&1
check "the guest passes" says_console a "test=vsock connections=[0-9]* .*result=pass"
finish
