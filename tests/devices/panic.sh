#!/bin/sh
# needs: kvm
# What a panic does that the guest tells of: by default a crash, with its report and status.
. "$(dirname "$0")/../cli/lib.sh"

console_has() { ferry logs "$1" | tr -d '\r' | grep -q "$2"; }
state() { [ "$(ferry ps --format json | jq -r ".[] | select(.name == \"$1\") | .state")" = "$2" ]; }
panic() { # NAME MODE OPTION...
    name=$1 mode=$2
    shift 2
    ferry run "$name" --kernel "$GUEST" --append "test=crash mode=$mode" --memory 32M --debug-exit "$@"
}

says "a panic is a crash: report, status 4" 4 "*its kernel panicked*registers of vCPU 0*0x505*" panic boom panic
check "exit.json says so" jq -e '.reason == "crash" and .exit_status == 4 and (.crash_report | test("panicked"))' \
    "$FERRY_RUNTIME_DIR/boom/exit.json"
says "ignored, the guest goes on" 1 "*mode=panic known=3 survived*result=pass*" panic ignore panic --on-panic ignore
says "a crash kernel is never stopped" 1 "*mode=crash-kernel survived*result=pass*" panic kdump crash-kernel
says "said over and over, the guest goes on" 1 "*mode=panic known=3 survived*" panic storm "panic count=60" --on-panic ignore
check "and the log doesn't fill with it" sh -c 'n=$(grep -c "has panicked" "$0"); [ $n -ge 10 ] && [ $n -le 40 ] && grep -q "not said again for a minute" "$0"' \
    "$FERRY_RUNTIME_DIR/storm/log"
check "paused, it can be looked at" panic held panic --on-panic pause --detach
check "it is paused" await state held paused
check "resumed, it goes on" ferry resume held
ferry wait held >/dev/null 2>&1
check "to its end" console_has held "mode=panic known=3 survived"
check "reset, it starts again" panic again panic --on-panic reset --detach
twice() { [ "$(ferry logs again | grep -c "mode=panic now")" -ge 2 ]; }
check "more than once" await twice
ferry kill again >/dev/null
# Each time it is resumed it panics again, until somebody listens. (Of one that doesn't stop only ten a minute are told.)
panic told "panic count=1000" --on-panic pause --detach >/dev/null
ferry events told >"$work/events" 2>&1 &
listener=$!
heard() { grep -q 'guest-crashed' "$work/events" || { ferry resume told; false; }; }
check "the event tells" await heard
ferry kill told >/dev/null
wait $listener
finish
