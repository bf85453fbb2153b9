#!/bin/sh
# needs: kvm
# The balloon, with the native guest as its driver: memory goes back to the host, as the process's RSS shows.
. "$(dirname "$0")/../cli/lib.sh"

# json COMMAND NAME FILTER: what `ferry COMMAND NAME` prints makes the filter true.
json() {
    ferry "$1" "$2" --format json >"$work/json" && jq -e "$3" "$work/json"
}
# passed NAME: the machine ends by itself, and its guest says that it passed.
passed() {
    ferry wait "$1" >"$work/end" 2>&1
    says_console "$1" "test=balloon .*result=pass"
}
resident() { ferry stats "$1" --format json | jq .memory.process_resident_bytes; }
says_console() { ferry logs "$1" | tr -d '\r' | grep -q "$2"; }

# less_by BYTES NAME BEFORE: the process has shrunk by at least that much.
less_by() { [ "$(resident "$2")" -le $(($3 - $1)) ]; }

start() { # NAME OPTIONS
    ferry run "$1" --detach --kernel "$GUEST" --append "test=balloon size=64M $2" --memory 128M --balloon --debug-exit
}

check "a machine with a balloon starts" start giver ""
check "its driver comes up" await says_console giver "balloon ready"
before=$(resident giver)
check "64 MiB are asked for, and come" ferry balloon giver 64M --wait 60s
check "they are the host's again" await less_by $((60 << 20)) giver "$before"
check "the status says so" json balloon giver '.current_bytes == (64 * 1048576) and .discarded_bytes == (64 * 1048576) and .driver'
check "statistics come from the guest" json balloon giver '.statistics.free_bytes == 0'
check "stats has them too" json stats giver '.balloon.target_bytes == (64 * 1048576)'
check "a snapshot with the balloon full" ferry snapshot giver "$work/snap"
says "more than there is can't be asked for" 1 "*only 128 MiB*" ferry balloon giver 1G
check "all of it is given back" ferry balloon giver 128M
check "pages come back as zeroes, the others as they were" passed giver

check "the snapshot is restored" ferry restore "$work/snap" giver --detach
check "with its balloon" json balloon giver '.current_bytes == (64 * 1048576)'
check "which can be emptied there" ferry balloon giver 128M
check "and the guest finds its memory as it should be" passed giver

check "free page reporting: a guest starts" start reporter report=1
check "and reports" await says_console reporter "balloon reported"
check "what is free is the host's" json balloon reporter '.reported_bytes == (64 * 1048576) and .discarded_bytes == 0'
check "by its resident memory" less_by 0 reporter $((40 << 20))
check "it is told that was seen" ferry balloon reporter 64M
check "and finds zeroes" passed reporter

check "a machine without one" run plain idle
says "says what to do" 1 "*no balloon*--balloon*" ferry balloon plain 16M
finish
