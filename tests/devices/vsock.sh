#!/bin/sh
# needs: kvm
# Vsock with the native guest: connections both ways, much data, many clients, a snapshot.
. "$(dirname "$0")/../cli/lib.sh"

says_console() { ferry logs "$1" | tr -d '\r' | grep -q "$2"; }
sock=$work/v.sock
# echoed FILE: a client sends it to the guest's port 7 and gets the same back, behind the line OK.
echoed() {
    { printf 'CONNECT 7\n' && cat "$1"; } | socat -t 60 - "UNIX-CONNECT:$sock" >"$work/back" || return 1
    head -n 1 "$work/back" | grep -q '^OK [0-9]*$' || return 1
    tail -n +2 "$work/back" | cmp - "$1"
}

# The guest connects to port 1000 of the host first; it says something and hears an answer.
socat "UNIX-LISTEN:${sock}_1000" "SYSTEM:cat >$work/heard; echo thanks" >/dev/null 2>&1 &
server=$!
await [ -S "${sock}_1000" ]
run vs "vsock connect=1000" --vsock "cid=42,socket=$sock" --debug-exit >/dev/null
check "the guest knows its address" await says_console vs "vsock ready cid=42"
check "it reached a socket of the host" says_console vs "vsock connect port=1000 accepted=1"
check "and heard the answer" says_console vs "vsock answer=7 first=t"
wait $server
check "to what it had said" grep -q '^hello from the guest$' "$work/heard"
echo small >"$work/small"
check "a host's client is answered" echoed "$work/small"
head -c 3000000 /dev/urandom >"$work/large"
check "3 MB come back as they were" echoed "$work/large"
check "and again" echoed "$work/small"
check "pause and resume" sh -c "ferry pause vs && ferry resume vs"
check "lose nothing" echoed "$work/small"
says "an address that is the host's" 2 "*cid*" ferry run other --kernel "$GUEST" --memory 32M --vsock "cid=2,socket=$sock"
says "a client that says nonsense is hung up" 0 "" sh -c "printf 'nonsense\n' | socat -t 10 - 'UNIX-CONNECT:$sock'"
check "it is told to end" sh -c "printf 'CONNECT 8\n' | socat -t 10 - 'UNIX-CONNECT:$sock'"
ferry wait vs >/dev/null 2>&1
check "and passes" says_console vs "test=vsock connections=[0-9]* .*result=pass"

run alone "vsock connect=1000" --vsock "cid=43,socket=$sock" --debug-exit >/dev/null
check "nobody listens at port 1000: the guest is refused" await says_console alone "accepted=0"
ferry kill alone >/dev/null
finish
