#!/bin/sh
# needs: linux
# Stock Linux ends as it should: `ferry stop` presses the power button, which the guest hears and obeys; a reboot
# starts it again, or ends the machine where that was asked for.
cd "$(dirname "$0")/../.." || exit 1
. tests/boot/linux_lib.sh

stop() {
    ferry stop "$1" --timeout 180s >"$work/stop" 2>&1 && return 0
    reason="ferry stop: status $?: $(cat "$work/stop")"
    return 1
}

# A guest that is asked to reboot says so once a boot.
if check again "reboot: starts" linux again "console=ttyS0 ferry.mode=reboot" --cpus 2; then
    check again "reboot: the guest boots a second time" wait_line again '^ferry-guest: rebooting$' 2
    ferry kill again >/dev/null
    check again "reboot: kill ends it all the same" test "$(ferry ps | grep -c '^again ')" = 0
fi

if check once "reboot as exit: starts" linux once "console=ttyS0 ferry.mode=reboot" --on-reboot exit; then
    check once "reboot as exit: ends with 0" ended once
    check once "reboot as exit: booted once" test "$(log once | grep -c '^ferry-guest: rebooting$')" = 1
fi

if check button "stop: starts" linux button "console=ttyS0 ferry.mode=wait" --cpus 2; then
    check button "stop: the guest is up" wait_line button '^ferry-guest: ready$'
    check button "stop: ends it in time" stop button
    check button "stop: the guest heard the power button" has button '^ferry-guest: power button$'
    check button "stop: the exit status is that of a guest that switched itself off" ended button
fi
exit $failed
