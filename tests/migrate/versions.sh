#!/bin/sh
# Sources whose CPU or version the target doesn't have: refused by name before the first page, or taken all the same.
# needs: kvm
. "$(dirname "$0")/lib.sh"

if ! command -v python3 >/dev/null; then
    skip "sources of other hosts and versions" "no python3 here"
    exit 0
fi
# between CHANGE: $place is the relay's before a new receiver on b.
between() {
    receive b
    relay=$(mktemp "$work/relay.XXXXXX")
    python3 tests/migrate/relay.py "${place##*:}" "$1" >"$relay" 2>&1 &
    echo $! >>"$work/receivers"
    await test -s "$relay"
    place=tcp://127.0.0.1:$(head -1 "$relay")
}
go() { at a ferry migrate p "$place" --downtime 3s; }
no_page() { [ "$(at a ferry migrate p --status --format json | jq .bytes)" = 0 ]; }

at a run p "pattern size=1M rate=20" >/dev/null
find_parts a p
between cpu
says "a CPU feature that the target lacks is named" 1 "*refused*CPUID 0x7.0 ebx*" go
check "before the first page" no_page
between kvm
says "so is what KVM lacks" 1 "*refused*KVM features (0x40000000)*" go
check "before the first page" no_page
between version
says "another major version" 1 "*refused*version*" go
between strange
says "a field of later, which matters" 1 "*refused*'of_later'*" go
check "the machine runs on" is_at a p running
check "nothing is left at the target" nothing_left b p
between newer
check "a source with optional fields, keys and parts more is taken" go
check "and runs" await is_at b p running
at b ferry pause p >/dev/null
check "whole" pattern_holds b p
at b ferry resume p >/dev/null
check "and on" moves_on b p
finish
