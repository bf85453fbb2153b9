#!/bin/sh
# needs: kvm
# Disks of an NBD server (nbdkit): used, lost, back again, plugged in, moved.
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
trap 'end_server; clean_up' EXIT
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
ferry kill plugged >/dev/null
exit $((failures > 0))
