# What the command line's tests share. Source it; it makes a folder with a runtime directory of its
# own, and at the end kills the machines in it and removes it.
#
# GUEST is the test guest; `run NAME TEST [OPTION]...` starts it detached.
cd "$(dirname "$0")/../.." || exit 1
PATH=$PWD/build:$PATH
GUEST=build/guest/testguest.elf
work=$(mktemp -d /tmp/ferry-cli.XXXXXX)
FERRY_RUNTIME_DIR=$work/run
export FERRY_RUNTIME_DIR
failures=0

clean_up() {
    # In whichever runtime directory: some tests have several.
    for lock in "$work"/*/*/lock; do
        [ -e "$lock" ] || continue
        machine=${lock%/lock}
        ferry kill --runtime-dir "${machine%/*}" "${machine##*/}" >/dev/null 2>&1
    done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

ok() { echo "ok - $1"; }
not_ok() {
    echo "not ok - $1"
    shift
    for line in "$@"; do
        printf '%s\n' "$line" | head -40 | sed 's/^/# /'
    done
    failures=$((failures + 1))
}
skip() { echo "ok - $1 # SKIP $2"; }

# check NAME COMMAND...: the command succeeds.
check() {
    check_name=$1
    shift
    if check_output=$("$@" 2>&1); then
        ok "$check_name"
    else
        not_ok "$check_name" "$* ended with status $?" "$check_output"
    fi
}

# says NAME STATUS PATTERN COMMAND...: the command ends with that status and prints (on either stream) something
# that the shell pattern matches.
says() {
    says_name=$1 says_status=$2 says_pattern=$3
    shift 3
    says_output=$("$@" 2>&1 </dev/null)
    says_got=$?
    # shellcheck disable=SC2254 # the pattern is meant as one
    case $says_output in
    $says_pattern)
        if [ "$says_got" = "$says_status" ]; then
            ok "$says_name"
            return
        fi
        ;;
    esac
    not_ok "$says_name" "$* ended with status $says_got, not $says_status, or didn't say $says_pattern:" "$says_output"
}

# await COMMAND...: the command succeeds within a minute or two.
await() {
    await_left=600
    while ! "$@" >/dev/null 2>&1; do
        await_left=$((await_left - 1))
        [ $await_left -gt 0 ] || return 1
        sleep 0.2
    done
}

run() {
    run_name=$1 run_test=$2
    shift 2
    ferry run "$run_name" --detach --kernel "$GUEST" --append "test=$run_test" --memory 32M "$@"
}

# One request to a machine's control socket: prints the answer without the hello before it.
ask() { printf '%s\n' "$2" | socat -t 20 - "UNIX-CONNECT:$FERRY_RUNTIME_DIR/$1/control.sock" | tail -n +2; }
state() { ferry ps -a --format json | jq -r --arg name "$1" '.[] | select(.name == $name) | .state'; }
is_state() { [ "$(state "$1")" = "$2" ]; }
finish() { [ $failures -eq 0 ]; }
