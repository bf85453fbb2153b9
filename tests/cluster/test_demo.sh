#!/bin/sh
# The demonstration does what it says.
# needs: kvm
here=$(dirname "$0")
out=$(mktemp /tmp/ferry-demo.XXXXXX)
trap 'rm -f "$out"' EXIT
# On a terminal, so that the table is drawn too.
DEMO_SKIP=77 script -qec "$here/demo.sh" /dev/null </dev/null >"$out" 2>&1
status=$?
if [ "$status" = 77 ]; then
    echo "ok - the demonstration # SKIP $(tail -n 1 "$out")"
    exit 0
fi
check() { # NAME PATTERN
    if [ "$status" = 0 ] && grep -q "$2" "$out"; then
        echo "ok - $1"
    else
        echo "not ok - $1"
        sed 's/^/# /' "$out"
    fi
}
check "machines are placed" "four machines run"
check "one moves while it counts" "and counts on: [0-9]"
check "a lost host's machines run elsewhere" "all four run on the two others"
check "nothing ran twice" "never ran twice"
check "the table follows" "^counter  *running  *running  *h3"
check "it ends well" "^all of it in [0-9]"
exit 0
