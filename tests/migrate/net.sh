#!/bin/sh
# A guest on a tap moves between two hosts of one network: who talks to it finds it where it is.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. tests/migrate/hosts.sh

if ! hosts_can; then
    skip "the network after a move" "no network namespaces here"
    exit 0
fi
hosts_start

# UDP echo of the guest: one datagram, and its answer.
echo_answers() { [ "$(echo "$1" | on s socat -t 0.5 - UDP:10.9.0.2:7)" = "$1" ]; }
# All the while: numbers that came back. A datagram of the switch's is answered or lost, never changed.
talk() {
    n=0
    while [ -e "$work/talking" ]; do
        n=$((n + 1))
        answer=$(echo "number $n" | on s socat -t 0.2 - UDP:10.9.0.2:7)
        case $answer in
        "number $n") echo "$n" >>"$work/answered" ;;
        "") ;;
        *) echo "number $n became $answer" >>"$work/wrong" ;;
        esac
    done
}
more_answers() { [ "$(wc -l <"$work/answered")" -gt "$1" ]; }

at a ferry run web --detach --kernel "$GUEST" --append "test=net ip=10.9.0.2" --memory 32M --net tap=tap0 >/dev/null
check "the guest answers" await echo_answers before
mac=$(on s ip neighbour show 10.9.0.2 | sed -n 's/.*lladdr \([0-9a-f:]*\).*/\1/p' | tr -d :)

# What leaves the card at b, as a network there sees it.
nsenter -t "$host_b" -n socat -u INTERFACE:tap0,type=3 "CREATE:$work/frames" >/dev/null 2>&1 &
echo $! >>"$work/receivers"
touch "$work/talking" "$work/answered" "$work/wrong"
talk &
talker=$!
await more_answers 5
receive_at b
check "it moves" at a ferry migrate web "$place" --downtime 1s
answers=$(wc -l <"$work/answered")
check "and goes on answering" await more_answers $((answers + 5))

# The switch would have sent what is for the guest to where it was: until it said something by itself, and this one
# says nothing of its own.
fdb() { on s bridge fdb show br br0 | grep -qi "$(echo "$mac" | sed 's/../&:/g; s/:$//') dev to$1"; }
check "the switch knows where it is" await fdb b
rarps() {
    od -An -v -tx1 "$work/frames" | tr -d ' \n' | grep -o "ffffffffffff${mac}80350001080006040003${mac}00000000${mac}" | wc -l
}
said_often() { [ "$(rarps)" -ge 6 ]; }
check "the host has said so, six times" await said_often
receive_at a
check "it moves back" at b ferry migrate web "$place" --downtime 1s
answers=$(wc -l <"$work/answered")
check "and is found again" await more_answers $((answers + 5))
check "by the switch too" await fdb a
rm "$work/talking"
wait $talker
check "no answer was another's" [ ! -s "$work/wrong" ]
sed 's/^/# /' "$work/wrong"

# A paused machine says nothing, and is to be found all the same.
at a ferry pause web >/dev/null
on s bridge fdb del "$(echo "$mac" | sed 's/../&:/g; s/:$//')" dev toa master 2>/dev/null
receive_at b
check "a paused machine moves" at a ferry migrate web "$place"
check "the switch knows it" await fdb b
at b ferry resume web >/dev/null
check "it answers" await echo_answers after

# A machine that goes on at once isn't announced where it no longer is.
receive_at a
check "there" at b ferry migrate web "$place" --downtime 1s
receive_at b
check "and back at once" at a ferry migrate web "$place" --downtime 1s
check "it is found" await echo_answers again
check "the switch is right" fdb b
finish
