#!/bin/sh
# The file by which machines share a schedule (.cpu-board) isn't what it should be, or is damaged while they use it: none
# of them dies or stands still, and each says so. Only that machines get on is looked at, not how much each gets.
# needs: kvm
. "$(dirname "$0")/../cli/lib.sh"

board=$FERRY_RUNTIME_DIR/.cpu-board
# spin NAME: a machine that works without a pause, on one CPU with the others.
spin() {
    ferry run "$1" --detach --kernel "$GUEST" --append "test=spin seconds=0" --memory 32M --cpu-backend own --cpu-affinity 0
}
refused() {
    says "$1" 1 "$2" ferry run x --kernel "$GUEST" --append test=hello --memory 32M --cpu-backend own --cpu-weight 50
    rm -rf "$board"
}
cpu_ms() { ferry stats "$1" --format json | jq '[.vcpus[].cpu_ns] | add / 1000000 | floor'; }
# gets_on NAME...: each uses another 20 ms.
has_used() { [ "$(cpu_ms "$1")" -ge "$2" ]; }
gets_on() {
    for gets_on_name in "$@"; do
        await has_used "$gets_on_name" "$(($(cpu_ms "$gets_on_name") + 20))" || return
    done
}
logged() { ferry logs "$1" --vmm | grep -q "$2"; }

# ---- files that are no board ----
mkdir -p -m 700 "$FERRY_RUNTIME_DIR"
mkfifo "$board"
refused "a pipe" "ferry: run: *.cpu-board*not a regular file*remove it*"
ln -s "$work/elsewhere" "$board"
refused "a symbolic link" "ferry: run: *.cpu-board*symbolic link*remove it*"
check "which isn't followed" [ ! -e "$work/elsewhere" ]
mkdir "$board"
refused "a directory" "ferry: run: *.cpu-board*"
head -c 100000 /dev/urandom >"$board"
check "a file of anything that nobody uses is begun anew" spin a
check "and works" gets_on a
check "for two" spin b
check "who share it" gets_on a b
printf '\143' | dd of="$board" bs=1 seek=8 conv=notrunc 2>/dev/null # the version
says "one of another version that is in use" 1 "ferry: run: *another version of ferry (99,*end them first*" \
    ferry run x --kernel "$GUEST" --append test=hello --memory 32M --cpu-backend own --cpu-weight 50

# ---- damaged in use ----
dd if=/dev/urandom of="$board" bs=65536 count="$(($(stat -c %s "$board") / 65536))" conv=notrunc 2>/dev/null
check "filled with anything: both get on" gets_on a b
says "and say so" 0 "" await sh -c '{ ferry logs a --vmm; ferry logs b --vmm; } | grep "makes no sense"'
check "one that comes then gets on as well" spin c
check "with them" gets_on a b c
for name in a b c; do ferry kill $name >/dev/null; done
ferry rm --all >/dev/null

check "two others" spin a
check "on a board of their own" spin b
: >"$board"
check "made empty: both get on" gets_on a b
check "and say so" await logged a "can't be relied on"
check "each of them" await logged b "can't be relied on"
says "they are there still" 0 "*running*running*" ferry ps
says "and take changes" 0 "*weight*300*" ferry cpu a --cpu-weight 300
check "one that comes then" spin c
check "gets on as well" gets_on a b c
for name in a b c; do ferry kill $name >/dev/null; done
finish
