#!/bin/sh
# needs: kvm
# Disks of NBD servers (nbdkit, qemu-nbd): used, lost, back again, plugged in, moved.
. "$(dirname "$0")/../cli/lib.sh"

if ! command -v nbdkit >/dev/null; then
    skip "disks of an NBD server" "nbdkit isn't there (scripts/setup test)"
    exit 0
fi
disk="nbd+unix:///?socket=$work/nbd"
serve() { # ARGUMENT...
    rm -f "$work/nbd"
    nbdkit --unix "$work/nbd" --pidfile "$work/nbd.pid" "$@"
}
end_server() {
    [ -s "$work/nbd.pid" ] && kill -KILL "$(cat "$work/nbd.pid")" # TERM would wait for its clients
    rm -f "$work/nbd.pid"
}
helpers=
# shellcheck disable=SC2086 # several numbers
trap 'end_server; [ -z "$helpers" ] || kill $helpers 2>/dev/null; clean_up' EXIT
passed() { [ "$(ferry logs "$1" | grep -c 'test=blk .*result=pass')" -ge "$2" ]; }
failed() { ferry logs "$1" | grep -q 'test=blk .*result=fail'; }
says_log() { ferry logs --vmm "$1" | grep -q "$2"; }

says "no server" 1 "*can't be reached*" ferry run none --detach --kernel "$GUEST" --memory 32M --disk "$disk"
says "TLS isn't there" 2 "*TLS*" ferry run none --detach --kernel "$GUEST" --memory 32M --disk nbds://localhost/
says "no address" 2 "*nbd://HOST*" ferry run none --detach --kernel "$GUEST" --memory 32M --disk nbd://:1:2/

check "a server" serve memory 32M
check "a machine with its disk" run remote "blk exit=none" --disk "$disk"
check "what it writes it reads again" await passed remote 1
check "the server ends" end_server
check "which is noticed" await says_log remote "requests fail until the server is back"
ferry reset remote >/dev/null
check "the guest gets errors, and goes on" await failed remote
check "the server comes back" serve memory 32M
check "and is found" await says_log remote "connected again"
ferry reset remote >/dev/null
check "then the disk works as before" await passed remote 2
check "a snapshot with such a disk" ferry snapshot remote "$work/snapshot"
ferry kill remote >/dev/null
ferry rm remote >/dev/null 2>&1
check "its restore connects again" ferry restore "$work/snapshot" remote --detach
ferry reset remote >/dev/null
check "and works" await passed remote 1
ferry kill remote >/dev/null
end_server

check "a server whose disk has errors" serve --filter=error memory 32M error-pread=EIO error-pread-rate=100%
check "a machine with that" run broken "blk exit=none" --disk "$disk"
check "gets I/O errors" await failed broken
says "and runs" 0 "*running*" ferry ps
ferry kill broken >/dev/null
end_server

check "a server, read-only" serve --readonly memory 32M
says "its disk can't be written to" 1 "*read-only*',ro'*" ferry run none --detach --kernel "$GUEST" --memory 32M --disk "$disk"
end_server

check "a server again" serve memory 32M
check "a machine without disks" run plugged "hotplug exit=none"
check "is given one" ferry device add plugged --disk "$disk"
inserted() { ferry logs plugged | grep -q "hotplug inserted"; }
check "which works" await inserted
check "and is taken away" ferry device remove plugged disk0
end_server
socat "UNIX-LISTEN:$work/silent,fork" SYSTEM:'cat >/dev/null' &
helpers="$helpers $!"
await [ -S "$work/silent" ]
says "a server that says nothing isn't waited for for ever" 1 "*says nothing*" \
    ferry device add plugged --disk "nbd+unix:///?socket=$work/silent"
without() { ferry device list plugged --format json | jq -e '[.[] | select(.disk)] == []'; }
check "nothing of it is left" without
# The machine's end doesn't wait for it either.
ferry device add plugged --disk "nbd+unix:///?socket=$work/silent" >"$work/said" 2>&1 &
adds=$!
check "a machine that waits for one can be ended" ferry kill plugged
wait $adds
check "of which the command hears" [ $? = 1 ]

check "a server that is slow" serve --filter=delay memory 32M rdelay=20ms wdelay=20ms
check "a machine that uses it" run busy "blk mode=loop size=4M seconds=0 exit=none" --disk "$disk"
under_way() { [ "$(ferry stats busy --format json | jq '[.devices[] | select(.id == "disk0") | .queues[].requests] | add')" -gt 4 ]; }
check "has requests under way" await under_way
check "its server is killed" end_server
check "what was asked of it fails" await failed busy
says "the machine runs" 0 "*running*" ferry ps
ferry kill busy >/dev/null

check "a server for two" serve memory 32M
check "a machine" run mover "blk mode=loop size=4M seconds=0 exit=none" --disk "$disk"
loops() { [ "$(grep -c 'blk loop requests=' "$1/mover/console.log")" -gt "$2" ]; }
check "uses its disk" await loops "$FERRY_RUNTIME_DIR" 0
ferry receive --runtime-dir "$work/other" --listen tcp://127.0.0.1:0 >"$work/heard" 2>&1 </dev/null &
helpers="$helpers $!"
await grep -q '^listening at ' "$work/heard"
check "it moves" ferry migrate mover "$(sed -n 's/^listening at //p' "$work/heard")" --downtime 3s
check "and uses its disk there" await loops "$work/other" 1
no_errors() { ! grep 'result=fail' "$work/other/mover/console.log"; }
check "which has what was written here and there" no_errors
ferry kill --runtime-dir "$work/other" mover >/dev/null
end_server

if command -v qemu-nbd >/dev/null && command -v qemu-img >/dev/null; then
    qemu-img create -q -f qcow2 "$work/image.qcow2" 32M
    rm -f "$work/nbd"
    check "QEMU's server with a qcow2 image" \
        qemu-nbd --fork --persistent --pid-file "$work/nbd.pid" --socket "$work/nbd" --format qcow2 "$work/image.qcow2"
    check "a machine with that" run qcow2 "blk exit=none" --disk "$disk"
    check "what it writes it reads again" await passed qcow2 1
    ferry kill qcow2 >/dev/null
    end_server
    check "and it is in the image" qemu-img check -q "$work/image.qcow2"
    written() { [ "$(stat -c %s "$work/image.qcow2")" -gt 4000000 ]; }
    check "which has grown" written
else
    skip "QEMU's server" "qemu-nbd isn't there (scripts/setup test)"
fi
exit $((failures > 0))
