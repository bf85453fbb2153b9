#!/bin/sh
# needs: kvm
# Networks without taps: through passt, and between two machines over a socket.
. "$(dirname "$0")/../cli/lib.sh"

says_console() { ferry logs "$1" | tr -d '\r' | grep -q "$2"; }
says_log() { ferry logs --vmm "$1" | grep -q "$2"; }
net() { # NAME PARAMETERS NETWORK
    ferry run "$1" --detach --kernel "$GUEST" --append "test=net $2" --memory 32M --debug-exit --net "$3"
}

# One listens, the other connects, before the listener is there.
check "a machine waits for another one" net near "mode=rtt ip=10.9.0.1 peer=10.9.0.2 gateway=10.9.0.2 seconds=1 lost=100000" "socket=$work/wire"
check "which comes" net far "mode=echo ip=10.9.0.2 gateway=10.9.0.1" "socket=$work/wire,listen"
check "they are connected" await says_log far "net0: connected"
check "both" await says_log near "net0: connected"
ferry wait near >/dev/null 2>&1
if says_console near "test=net .*result=pass"; then
    ok "and the first one's frames are answered"
else # it had given up resolving before the other was there
    check "started again" net near "mode=rtt ip=10.9.0.1 peer=10.9.0.2 gateway=10.9.0.2 seconds=1" "socket=$work/wire"
    ferry wait near >/dev/null 2>&1
    check "its frames are answered" says_console near "test=net .*result=pass"
fi
check "a machine comes again" net near "mode=rtt ip=10.9.0.1 peer=10.9.0.2 gateway=10.9.0.2 seconds=1" "socket=$work/wire"
ferry wait near >/dev/null 2>&1
check "and is served like the first" says_console near "test=net .*result=pass"

# ---- the cable ----
link() { ferry device list far --format json | jq -r '.[] | select(.id == "net0") | .link'; }
dropped() { ferry stats far --format json | jq -e '.devices[] | select(.id == "net0") | .drops.received > 0' >/dev/null; }
ferry events far >"$work/events" &
listener=$!
heard() { grep -c device-changed "$work/events"; }
listens() { ferry device set far net0 iops=0 >/dev/null && [ "$(heard)" -gt 0 ]; }
check "somebody listens to events" await listens
before=$(heard)
says "the cable is pulled" 0 "net0: link down" ferry device set far net0 link=down
check "which is known" [ "$(link)" = down ]
says "and shown" 0 "*net0 *link down*" ferry device list far
net near "mode=rtt ip=10.9.0.1 peer=10.9.0.2 gateway=10.9.0.2 seconds=1" "socket=$work/wire" >/dev/null
check "no frame comes to the guest" await dropped
ferry kill near >/dev/null
check "a reset leaves it so" ferry reset far
check "so it's still out" [ "$(link)" = down ]
check "and a snapshot" ferry snapshot far "$work/snapshot"
says "it is plugged in, with a limit at once" 0 "net0: bytes a second none*link up*" ferry device set far net0 link=up iops=100000
changes() { [ "$(heard)" -ge $((before + 3)) ]; }
check "each change is an event" await changes
kill $listener
ferry kill far >/dev/null
check "a restored machine" ferry restore "$work/snapshot" far --detach
check "has it out too" [ "$(link)" = down ]
check "until it's plugged in" ferry device set far net0 link=up
net near "mode=rtt ip=10.9.0.1 peer=10.9.0.2 gateway=10.9.0.2 seconds=1" "socket=$work/wire" >/dev/null
ferry wait near >/dev/null 2>&1
check "and answers again" says_console near "test=net .*result=pass"
says "disks have no cable" 1 "*no network 'rng0'*" ferry device set far rng0 link=up
says "a cable is in or out" 1 "*'loose' is neither up nor down*" ferry device set far net0 link=loose
ferry kill far >/dev/null

address=$(ip -4 -o route get 192.0.2.77 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')
gateway=$(ip -4 route show default 2>/dev/null | sed -n 's/^default via \([0-9.]*\).*/\1/p' | head -n 1)
if ! command -v passt >/dev/null; then
    says "without passt: what to do" 1 "*passt*apt-get install passt*" net none "mode=echo" user
elif [ -z "$address" ] || [ -z "$gateway" ]; then
    skip "a network through passt" "this host has no route for passt to give to the guest"
else
    port=$((20000 + $$ % 20000))
    check "a machine with a network through passt" net user "mode=echo ip=$address gateway=$gateway port=$port" "user,udp=$port"
    check "passt is connected" await says_log user "net0: connected"
    check "the guest is ready" await says_console user "net ready"
    reached() { echo hello | socat -u - "UDP:127.0.0.1:$port" && says_console user "echo received=$1"; }
    check "the host's datagrams are forwarded to it" await reached "[1-9]"
    passt=$(pgrep -f -- "passt.* -u $port" | head -n 1)
    check "passt dies" kill -KILL "$passt"
    again() { [ "$(ferry logs --vmm user | grep -c "net0: connected")" -ge 2 ]; }
    check "and is started again" await again
    before=$(ferry logs user | tr -d '\r' | sed -n 's/.*echo received=\([0-9]*\).*/\1/p' | tail -n 1)
    more() {
        echo hello | socat -u - "UDP:127.0.0.1:$port"
        [ "$(ferry logs user | tr -d '\r' | sed -n 's/.*echo received=\([0-9]*\).*/\1/p' | tail -n 1)" -gt "$before" ]
    }
    check "and forwards as before" await more
    says "a move says first that its connections break" 1 "*connections through net0 break*refused*" \
        ferry migrate user tcp://127.0.0.1:1
    check "and the status has it" sh -c 'ferry migrate user --status --format json |
        jq -e ".breaks_connections_of == [\"net0\"]"'
    passt=$(pgrep -f -- "passt.* -u $port" | head -n 1)
    ferry kill user >/dev/null
    gone() { ! kill -0 "$passt" 2>/dev/null; }
    check "with the machine passt ends" await gone
    # A child a client, which outlives the listener: it ends by itself, and holds nothing of this test.
    socat -T 5 "UDP-LISTEN:$port,fork" EXEC:cat >/dev/null 2>&1 </dev/null &
    server=$!
    check "a guest that asks the host" net ask "mode=rtt ip=$address gateway=$gateway peer=$gateway port=$port seconds=1 lost=1000" user
    ferry wait ask >/dev/null 2>&1
    check "is answered" says_console ask "test=net .*result=pass"
    count=$(ferry logs ask | tr -d '\r' | sed -n 's/.* count=\([0-9]*\).*/\1/p' | tail -n 1)
    check "by its peer" [ "${count:-0}" -gt 0 ]
    kill $server
fi
finish
