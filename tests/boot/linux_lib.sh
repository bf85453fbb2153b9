# Common to the tests that boot stock Linux: sourced by them, from the checkout's folder.
# The guest's own lines and what its modes do are described in docs/lab.md.

work=$(mktemp -d "${TMPDIR:-/tmp}/ferry-linux.XXXXXX")
export FERRY_RUNTIME_DIR="$work/run"
failed=0
machines=

# On every way out: machines are ended, which also lets go of their taps and disks.
clean_up() {
    for machine in $machines; do
        ferry kill "$machine" >/dev/null 2>&1
    done
    [ -z "$tap" ] || ip link delete "$tap" 2>/dev/null
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 143' INT TERM HUP

# linux NAME APPEND OPTION...: starts the guest detached; true when it runs.
linux() {
    machines="$machines $1"
    name=$1 append=$2
    shift 2
    ferry run "$name" --detach --kernel build/linux/vmlinuz --initrd build/linux/initramfs.cpio.gz \
        --memory 256M --append "quiet panic=-1 nokaslr mitigations=off cryptomgr.notests $append" "$@" >"$work/start" 2>&1
}

# log NAME: what the guest's console showed, with line ends as Unix has them.
log() {
    ferry logs "$1" 2>&1 | tr -d '\r'
}

# has NAME PATTERN: a line of the console matches the extended regular expression.
has() {
    log "$1" | grep -qE -- "$2" && return 0
    reason="no line matches: $2"
    return 1
}

# wait_line NAME PATTERN [TIMES]: until that many lines match. Ends early when the machine did.
wait_line() {
    left=1800
    while [ "$(log "$1" | grep -cE -- "$2")" -lt "${3:-1}" ]; do
        left=$((left - 1))
        if [ $left -eq 0 ] || ! ferry ps 2>/dev/null | grep -q "^$1 "; then
            # It may have ended between the look at its log and the look at it.
            [ "$(log "$1" | grep -cE -- "$2")" -ge "${3:-1}" ] && return 0
            reason="waited in vain for ${3:-1} lines that match: $2"
            return 1
        fi
        sleep 0.1
    done
}

# ended NAME: waits for the end; true when its exit status is 0.
ended() {
    ferry wait "$1" >"$work/end" 2>&1 && return 0
    reason="ended with status $?: $(cat "$work/end")"
    return 1
}

# check NAME TEXT COMMAND...: one TAP line about the machine NAME; shows its console when it failed.
check() {
    machine=$1 text=$2
    shift 2
    reason=
    if "$@"; then
        echo "ok - $text"
        return 0
    fi
    failed=1
    echo "not ok - $text"
    {
        [ -z "$reason" ] || echo "$reason"
        cat "$work/start"
        log "$machine" | tail -n 40
        ferry logs --vmm "$machine" 2>&1 | tail -n 20
    } | sed 's/^/# /'
    return 1
}
