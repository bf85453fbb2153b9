#!/bin/sh
# needs: kvm
# Disks come and go while the native guest runs; it follows the registers that the DSDT's methods use.
. "$(dirname "$0")/../cli/lib.sh"

# json COMMAND... FILTER: what `ferry COMMAND...` prints makes the filter true.
json() {
    json_filter=
    for json_word in "$@"; do json_filter=$json_word; done
    ferry_json "$@" >"$work/json" && jq -e "$json_filter" "$work/json"
}
ferry_json() { # all but the last word
    json_words=
    while [ $# -gt 1 ]; do json_words="$json_words $1" && shift; done
    # shellcheck disable=SC2086 # one word each
    ferry $json_words --format json
}
says_console() { ferry logs "$1" | tr -d '\r' | grep -q "$2"; }
threads() { ls "/proc/$(ferry ps --format json | jq -r ".[] | select(.name == \"$1\") | .pid")/task" | wc -l; }

truncate -s 8M "$work/a.img" "$work/b.img"
run plug "hotplug rounds=3" --debug-exit >/dev/null
check "a guest waits for devices" await says_console plug "hotplug ready"
before=$(threads plug)
says "a disk is added, and gets an id" 0 disk0 ferry device add plug --disk "$work/a.img"
check "the guest uses it" await says_console plug "hotplug inserted slot=[0-9]* sectors=16384"
check "it is in the list" json device list plug '.[] | select(.id == "disk0") | .removable and .size_bytes == 8388608'
check "and in the description, with its slot" json inspect plug '.disks[0].id == "disk0" and .disks[0].slot > 0'
says "nobody else gets the image" 1 "*" ferry run other --kernel "$GUEST" --disk "$work/a.img" --memory 32M
says "nor this machine twice" 1 "*given twice*" ferry device add plug --disk "$work/a.img"
says "it is made larger" 0 "disk0: 16 MiB*" ferry device resize plug disk0 16M
check "the guest hears of it" await says_console plug "hotplug sectors=32768"
says "but not smaller" 1 "*only be made larger*" ferry device resize plug disk0 8M
truncate -s 24M "$work/a.img"
says "a size from outside is looked at" 0 "disk0: 24 MiB*" ferry device resize plug disk0
check "the guest hears of that too" await says_console plug "hotplug sectors=49152"
says "it is removed when the guest has given it up" 0 "disk0: removed*" ferry device remove plug disk0
check "nothing is left: no slot in the guest" await says_console plug "hotplug ejected slot=[0-9]* id=0xffffffff"
check "no thread" [ "$(threads plug)" = "$before" ]
check "no device" json device list plug '[.[] | select(.id == "disk0")] == []'
check "no lock" ferry run other --kernel "$GUEST" --disk "$work/a.img" --memory 32M --append test=hello --debug-exit --detach
ferry wait other >/dev/null 2>&1

says "another one comes" 0 disk0 ferry device add plug --disk "$work/b.img,cache=unsafe"
check "and is used" await says_console plug "sectors=16384"
second() { [ "$(ferry logs plug | grep -c 'hotplug inserted')" = "$1" ]; }
check "by the guest" await second 2
check "a snapshot with it" ferry snapshot plug "$work/snap"
says "it goes again" 0 "disk0: removed*" ferry device remove plug disk0
says "a third one" 0 disk0 ferry device add plug --disk "$work/b.img"
check "comes" await second 3
says "and is taken away without asking" 0 "disk0: removed*" ferry device remove plug disk0 --force
says "console, entropy and unknown ones stay" 1 "*only these come and go*" ferry device remove plug rng0
says "what isn't there can't go" 1 "*no device 'disk7'*" ferry device remove plug disk7
says "a missing file is told" 1 "*No such file*" ferry device add plug --disk "$work/nowhere"
check "the machine lives on" json device list plug 'length == 2'
ferry kill plug >/dev/null

check "the snapshot has the disk in its place" ferry restore "$work/snap" plug --detach --force
says "where it can be removed" 0 "disk0: removed*" ferry device remove plug disk0
ferry kill plug >/dev/null

run late "hotplug late=1" --debug-exit >/dev/null
check "a guest that is slow" await says_console late "hotplug ready"
says "gets a disk" 0 disk0 ferry device add late --disk "$work/a.img"
check "and takes it" await says_console late "hotplug inserted"
says "a guest that doesn't answer" 1 "*hasn't given 'disk0' up*--force*" ferry device remove late disk0 --timeout 300ms
check "has heard" await says_console late "hotplug asked=1"
check "and keeps the disk" json device list late '.[] | select(.id == "disk0")'
says "asked again, it gives it up" 0 "disk0: removed*" ferry device remove late disk0
ferry wait late >/dev/null 2>&1
check "and passes" says_console late "test=hotplug rounds=1 result=pass"
finish
