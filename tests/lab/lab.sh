#!/bin/sh
# The lab itself, from the host: status, streams, collecting, time-outs, several hosts, nothing left behind.
# needs: nothing
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-lab-test.XXXXXX")
results=build/lab/test-results
trap 'rm -rf "$work" "$results"' EXIT
trap 'exit 143' INT TERM

tests=0
failures=0
# check NAME COMMAND...: one TAP line; what COMMAND prints is the reason of a failure.
check() {
    tests=$((tests + 1))
    name=$1
    shift
    if reason=$("$@" 2>&1); then
        echo "ok $tests - $name"
    else
        failures=$((failures + 1))
        echo "not ok $tests - $name"
        echo "$reason" | sed 's/^/# /'
    fi
}
same() {
    [ "$1" = "$2" ] || { printf 'expected: %s\nfound: %s\n' "$2" "$1" && return 1; }
}
contains() {
    grep -q -- "$2" "$1" || { echo "no line matches '$2' in:" && cat "$1" && return 1; }
}
# wait_for SECONDS COMMAND...
wait_for() {
    left=$(($1 * 10))
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}
gone() {
    [ ! -e "/proc/$1" ] || [ "$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status")" = Z ]
}
# emulator PID: the process id of the QEMU that the lab process PID started.
emulator() {
    tr ' ' '\n' <"/proc/$1/task/$1/children" | sed -n '/./p' | tail -n 1
}

# What it says when it makes the images anew is not what is tested here.
scripts/linux-guest >"$work/out" 2>&1
check "the stock guest's images can be made" same $? 0

# --- one run that shows most of it
rm -rf "$results"
scripts/lab --collect "$results" --env LAB_TEST_VALUE='a  b' -- sh -c '
    printf "%s\n" "$@"
    echo "value=$LAB_TEST_VALUE"
    pwd
    sha256sum scripts/lab
    build/tests/lab/kvm_smoke
    echo "to stderr" >/dev/stderr
    mkdir "$1/deep"
    head -c 300000 /dev/urandom >"$1/deep/random"
    sha256sum <"$1/deep/random"
    head -c 1000000 /dev/zero | tr "\0" x
    sleep 1000 &
    exit 7' -- "$results" "two words" "it's" '$HOME' >"$work/out" 2>"$work/err"
check "the exit status is the command's" same $? 7
check "arguments arrive unchanged" same "$(sed -n '1,4p' "$work/out")" "$results
two words
it's
\$HOME"
check "--env passes a variable" contains "$work/out" '^value=a  b$'
check "the current directory is the checkout's" contains "$work/out" "^$PWD\$"
check "the checkout's files are there" contains "$work/out" "$(sha256sum <scripts/lab | cut -d' ' -f1)"
check "/dev/kvm runs a guest" contains "$work/out" '^ok 1 - /dev/kvm runs a real-mode guest$'
check "stderr stays apart" same "$(cat "$work/err")" "to stderr"
check "output is complete when the command ends" same "$(tail -n 1 "$work/out" | tr -d '\n' | wc -c)" 1000000
check "--collect brings files back" contains "$work/out" \
    "^$(sha256sum <"$results/deep/random" | cut -d' ' -f1) "

# --- three at once: one ended by TERM, one by KILL, one by its time-out
mkfifo "$work/term.out" "$work/kill.out"
scripts/lab -- sh -c 'echo running; sleep 1000' >"$work/term.out" 2>&1 &
term=$!
scripts/lab -- sh -c 'echo running; sleep 1000' >"$work/kill.out" 2>&1 &
kill=$!
scripts/lab --timeout 1 -- sleep 1000 >"$work/timeout.out" 2>&1
check "--timeout ends it with 124, even while it boots" same $? 124
read -r line <"$work/term.out"
check "output comes while the command runs" same "$line" running
term_emulator=$(emulator $term)
kill -TERM $term
wait $term
check "TERM ends it with 143" same $? 143
check "TERM leaves no emulator" wait_for 10 gone "$term_emulator"
read -r line <"$work/kill.out"
check "two runs at once don't disturb each other" same "$line" running
kill_emulator=$(emulator $kill)
kill -KILL $kill
wait $kill 2>/dev/null
check "KILL leaves no emulator" wait_for 10 gone "$kill_emulator"

# --- failures of the lab itself
scripts/lab -- sh -c 'echo c >/proc/sysrq-trigger; sleep 1000' >"$work/out" 2>&1
check "a crash of the lab is status 125" same $? 125
check "a crash shows the console" contains "$work/out" 'console: .*Kernel panic'
scripts/lab --file /nonexistent -- true >"$work/out" 2>&1
check "a missing --file is status 125" same $? 125
check "a missing --file is named" contains "$work/out" '/nonexistent: no such file'

# --- three hosts
scripts/lab --hosts 3 --on 2 'echo "I am $LAB_HOST"; exit 0' -- sh -c '
    next=lab$((LAB_INDEX % LAB_HOSTS + 1))
    ping -c 3 -W 30 -s 4000 $next | grep -q "3 packets received" && echo "reached $next"
    lab-exec $next "printf \"this is %s\n\" \$LAB_HOST; exit 40"
    echo "status $?"' >"$work/out" 2>&1
check "several hosts end with 0 when all did" same $? 0
check "--on gives a host its own command" contains "$work/out" '^lab2| I am lab2$'
check "host 1 reaches host 2" contains "$work/out" '^lab1| reached lab2$'
check "host 3 reaches host 1" contains "$work/out" '^lab3| reached lab1$'
check "lab-exec runs on the other host" contains "$work/out" '^lab3| this is lab1$'
check "lab-exec returns the status" contains "$work/out" '^lab3| status 40$'
scripts/lab --hosts 2 --on 1 'exit 3' --on 2 'sleep 1000' >"$work/out" 2>&1
check "a failed host ends the others, and its status is returned" same $? 3

echo "1..$tests"
[ $failures -eq 0 ]
