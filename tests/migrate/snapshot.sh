#!/bin/sh
# Snapshots: a file that holds all of a machine, and what becomes of one that doesn't.
# needs: kvm
. "$(dirname "$0")/lib.sh"
disk=$work/disk.img
snap=$work/snap
truncate -s 4M "$disk"

at a run p "pattern size=2M seconds=3000" --memory 64M --cpus 2 --disk "$disk" >/dev/null
find_parts a p
says "a snapshot of a running machine" 0 "*snap: * written" at a ferry snapshot p "$snap"
check "zero pages are holes" sh -c '[ "$(du -k "$1" | cut -f 1)" -lt 32768 ]' sh "$snap"
check "nothing is left of the way" [ ! -e "$snap.partial" ]
check "the machine goes on" moves_on a p
says "a restore of a machine that runs is refused" 1 "*a machine named 'p' is running*" at a ferry restore --detach "$snap"
says "its disk is locked" 1 "*disk*" at b ferry restore --detach --force "$snap"
check "nothing is left of the refused one" nothing_left b p
at a ferry kill p >/dev/null

# ---- the way back ----
says "restore by mapping" 0 "p" at b ferry restore --detach "$snap"
check "it runs" moves_on b p
at b ferry pause p >/dev/null
check "and its pattern is whole" pattern_holds b p
at b ferry resume p >/dev/null

# A page that was never touched since the restore is still in the file only: it must move as well.
receive a
says "it moves on to another host" 0 "*p moved to*" at b ferry migrate p "$place" --downtime 2s
await is_at a p running
at a ferry pause p >/dev/null
check "with its pattern" pattern_holds a p
says "a paused machine's snapshot" 0 "*snap2: *" at a ferry snapshot p "$work/snap2"
says "a reset forgets the file" 0 "p: paused" at a ferry reset p
at a ferry kill p >/dev/null
says "restored whole under another name" 0 "q" at b ferry restore --detach --preload "$work/snap2" q
rm "$work/snap2"
cp "$work/parts.p" "$work/parts.q"
check "it is paused, as it was" is_at b q paused
check "with its pattern, though the file is gone" pattern_holds b q
at b ferry resume q >/dev/null
check "and goes on" moves_on b q
at b ferry kill q >/dev/null

# ---- what must be refused ----
touch -d '2001-01-01' "$disk"
says "a disk that has changed" 1 "*disk.img' has changed since the snapshot*" at b ferry restore --detach "$snap"
says "unless forced" 0 "p" at b ferry restore --detach --force "$snap"
at b ferry kill p >/dev/null
head -c 200000 "$snap" >"$work/cut"
says "a snapshot that is cut off" 1 "*snapshot '*cut': *" at b ferry restore --detach "$work/cut"
cp "$snap" "$work/damaged"
printf 'x' | dd of="$work/damaged" bs=1 seek=5000 conv=notrunc 2>/dev/null
says "one with damaged metadata" 1 "*damaged*" at b ferry restore --detach "$work/damaged"
says "a file that is none" 1 "*not a snapshot*" at b ferry restore --detach "$GUEST"
at b ferry rm p >/dev/null

# ---- a file that another command is writing ----
if command -v flock >/dev/null; then
    at a run w "idle" >/dev/null
    echo theirs >"$work/shared.partial"
    says "a file that somebody else is writing is refused" 1 "*shared' is being written by somebody else*" \
        at a flock "$work/shared.partial" ferry snapshot w "$work/shared"
    check "and stays as it is" [ "$(cat "$work/shared.partial")" = theirs ]
    says "what a killed command left is overwritten" 0 "*shared: *written" at a ferry snapshot w "$work/shared"
    check "and gone" [ ! -e "$work/shared.partial" ]
    at a ferry kill w >/dev/null
else
    skip "a file that another command is writing" "no flock here"
fi

# ---- a full disk ----
mkdir "$work/small"
if mount -t tmpfs -o size=1M none "$work/small" 2>/dev/null; then
    at a run r "pattern size=2M seconds=3000" --memory 64M >/dev/null
    find_parts a r
    says "a full disk" 1 "*No space left on device*" at a ferry snapshot r "$work/small/snap"
    check "leaves no file" sh -c '[ -z "$(ls -A "$1")" ]' sh "$work/small"
    check "and the machine running" moves_on a r
    umount "$work/small"
    says "and the next snapshot is whole" 0 "*written" at a ferry snapshot r "$work/snap3"
    at a ferry kill r >/dev/null
    says "as its restore shows" 0 "r" at a ferry restore --detach "$work/snap3"
    at a ferry pause r >/dev/null
    check "with the pattern" pattern_holds a r
    at a ferry kill r >/dev/null
else
    skip "a full disk" "no tmpfs can be mounted here"
fi
[ "$failures" -eq 0 ]
