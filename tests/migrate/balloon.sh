#!/bin/sh
# Machines with a balloon move and are restored: what is in it stays the host's at the target, and comes back as zeroes;
# pages that are given away and taken back while they are being copied are neither lost nor old.
# needs: kvm
. "$(dirname "$0")/lib.sh"

start() { at a ferry run "$1" --detach --kernel "$GUEST" --append "test=balloon $2" --memory 128M --balloon --debug-exit; }
# stat HOST NAME FILTER: of `ferry balloon`; resident HOST NAME: bytes of the process.
stat() { at "$1" ferry balloon "$2" --format json | jq "$3"; }
resident() { at "$1" ferry stats "$2" --format json | jq .memory.process_resident_bytes; }
less_than() { [ "$(resident "$2" "$3")" -lt $(($1 << 20)) ] || { resident "$2" "$3" && return 1; }; }
says_console() { grep -q "$3" "$work/$1/$2/console.log"; }
# passed HOST NAME: the guest ends by itself, and says that it passed.
passed() {
    at "$1" ferry wait "$2" >/dev/null 2>&1
    says_console "$1" "$2" 'test=balloon .*result=pass' || { tail -3 "$work/$1/$2/console.log" && return 1; }
}
move() { # FROM TO NAME OPTION...
    move_from=$1 move_name=$3
    receive "$2"
    shift 3
    at "$move_from" ferry migrate "$move_name" "$place" --downtime 3s "$@" >"$work/said" 2>&1 && return
    cat "$work/said" "$heard"
    return 1
}

# ---- full when it begins ----
check "a machine fills 64 MiB" start full "size=64M"
await says_console a full "balloon ready"
check "and gives them away" at a ferry balloon full 64M --wait 60s
check "it moves" move a b full
sent_little() { grep -Eq ' moved to .*: ([0-9.]+ KiB|[0-9](\.[0-9]*)? MiB) in ' "$work/said" || { cat "$work/said" && return 1; }; }
check "what it gave away was not sent" sent_little
check "nor does it take memory there" less_than 40 b full
check "the balloon there is as large" [ "$(stat b full '.current_bytes == 67108864 and .target_bytes == 67108864 and .driver')" = true ]
at b ferry balloon full 128M >/dev/null
check "its pages come back as zeroes" passed b full

# ---- filled while it moves: pages that were sent already, and such that weren't ----
check "another machine" start late "size=64M"
await says_console a late "balloon ready"
receive b
at a ferry migrate late "$place" --downtime 3s --bandwidth 16M --detach >/dev/null 2>&1
sent() { [ "$(at a ferry migrate late --status --format json | jq .bytes)" -gt 12000000 ]; }
check "of which a part is sent" await sent
check "is asked to give its memory away then" at a ferry balloon late 64M
check "and arrives" await is_at b late running
given() { [ "$(stat b late .current_bytes)" = 67108864 ]; }
check "having given it, here or there" await given
check "what was sent before takes no memory there any more" less_than 40 b late
at b ferry balloon late 128M >/dev/null
check "its pages come back as zeroes" passed b late

# ---- free page reporting ----
check "a machine that reports its free pages" start reporter "size=64M report=1"
await says_console a reporter "balloon reported"
check "moves" move a b reporter
check "they take no memory there" less_than 40 b reporter
at b ferry balloon reporter 64M >/dev/null
check "and are zeroes" passed b reporter

# ---- in and out all the time ----
churns() { # HOST: it makes progress
    churn_lines=$(grep -c 'balloon churn passes' "$work/$1/churn/console.log")
    await more_lines "$1"
}
more_lines() { [ "$(grep -c 'balloon churn passes' "$work/$1/churn/console.log")" -gt $((churn_lines + 1)) ]; }
check "a machine whose balloon never rests" start churn "size=8M churn=1"
await says_console a churn 'balloon churn passes'
here=a
for streams in 1 4 1 4; do
    there=$(other $here)
    check "moves over $streams connections" move $here "$there" churn --streams $streams
    check "and goes on there" churns "$there"
    here=$there
done
says "a snapshot of it" 0 "*written" at a ferry snapshot churn "$work/churn.snap"
check "it goes on" churns a
at a ferry balloon churn 64M >/dev/null
check "no page was lost or old" passed a churn
says "the snapshot is restored whole" 0 "churn" at b ferry restore --detach --preload "$work/churn.snap"
check "it goes on there" churns b
at b ferry balloon churn 64M >/dev/null
check "and no page was lost or old" passed b churn

check "one that takes old contents for good as well" start churn "size=8M churn=1 stale=1"
await says_console a churn 'balloon churn passes'
says "a snapshot of that" 0 "*written" at a ferry snapshot churn "$work/churn.snap"
at a ferry kill churn >/dev/null
at a ferry rm churn >/dev/null 2>&1
at b ferry rm churn >/dev/null 2>&1
says "is restored by mapping" 0 "churn" at b ferry restore --detach "$work/churn.snap"
check "goes on there" churns b
check "moves on" move b a churn
check "and goes on" churns a
at a ferry balloon churn 64M >/dev/null
check "no page was lost, or another's" passed a churn
finish
