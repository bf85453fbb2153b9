#!/bin/sh
# Three members whose disks are full, hang, fail and are lost.
. "$(dirname "$0")/lib.sh"
ferryd=$build/tests/cluster/faulty_disk

mkdir -p "$work/data3"
if ! mount -t tmpfs -o size=40m tmpfs "$work/data3" 2>/dev/null; then
    skip_all "no right to mount a small tmpfs"
fi
if ! cluster_start 3; then
    echo "not ok - a cluster of three comes up"
    tail -n 5 "$work"/log* | sed 's/^/# /'
    exit 1
fi
echo "ok - a cluster of three comes up"

alive() {
    kill -0 "$(member_pid "$1")" 2>/dev/null
}
gone() {
    ! alive "$1"
}
store_works() {
    store put again "$1" >/dev/null 2>&1
}
leads_not() {
    [ "$(leader)" != "$1" ]
}

# A hung disk: the leader must hand over, and come back when the disk does.
history_start 14 1
sleep 1
one=$(leader)
echo stall >"$work/disk$one"
report "a leader whose disk hangs hands over" wait_until leads_not "$one"
sleep 2
rm "$work/disk$one"
history_end "a hung disk"

# A failed write or sync ends that member; started again it catches up.
one=$(leader)
echo fail >"$work/disk$one"
store_works 1
report "a member whose disk fails stops" wait_until gone "$one"
rm "$work/disk$one"
report "the others go on" wait_until store_works 2
member_start "$one"
report "it comes back" wait_until store_works 3

# A full disk: an error to clients where it is the leader's, no damage, and it goes on with room.
leads() {
    store move-leader "m$1" >/dev/null 2>&1
    [ "$(leader)" = "$1" ]
}
is_full() {
    hub "$ferry" store status --store "$(member_address 3)" --format json | jq -e .disk_full >/dev/null
}
wait_until leads 3
dd if=/dev/zero of="$work/data3/filler" bs=1M 2>/dev/null
history_start 16 2
report "a member says that its disk is full" wait_until is_full
sleep 4
report "a member with a full disk lives" alive 3
rm "$work/data3/filler"
history_end "a full disk"
report "and works when there is room again" wait_until store_works 4

# A lost disk: nothing comes back under the old id, a new member takes its place.
one=$(follower)
id=$(store members --format json | jq -r ".members[] | select(.name == \"m$one\") | .id")
member_kill "$one"
find "$work/data$one" -type f -delete
member_start "$one"
report "an empty directory doesn't become the old member" wait_until gone "$one"
store members remove "$id"
cluster_join "$one"
report "a new one joins in its place" wait_until voters_are 3
same_id() {
    store members --format json | jq -e ".members[] | select(.id == \"$id\")" >/dev/null
}
if same_id; then
    echo "not ok - with another id"
else
    echo "ok - with another id"
fi
history_start 4 3
history_end "after the replacement"

# Alone on a full disk: clients are told, reads go on, and so do writes when there is room.
mkdir "$work/alone"
mount -t tmpfs -o size=40m tmpfs "$work/alone"
alone_start() {
    ip netns exec "$net-1" "$ferryd" --store-only --data "$work/alone" --name alone --listen-peer \
        127.0.0.1:7800 --listen-client 127.0.0.1:7801 --segment 8M --found >>"$work/alone.log" 2>&1 &
    alone=$!
}
alone_store() {
    ip netns exec "$net-1" "$ferry" store "$@" --store 127.0.0.1:7801 --timeout 3s
}
alone_works() {
    [ "$(alone_store put one "$1" >/dev/null 2>&1 && alone_store get one)" = "$1" ]
}
alone_start
wait_until alone_works before
dd if=/dev/zero of="$work/alone/filler" bs=1M 2>/dev/null
big=$(head -c 100000 /dev/zero | tr '\0' x)
fill() {
    count=0
    while [ "$count" -lt 300 ] && alone_store put big "$big" >/dev/null 2>"$work/said"; do
        count=$((count + 1))
    done
    grep -q "the disk of the leader is full" "$work/said" || { sed 's/^/# /' "$work/said" && return 1; }
}
report "a client is told that the disk is full" fill
still_reads() {
    [ "$(alone_store get one)" = before ]
}
report "it can still be read" still_reads
kill -KILL "$alone"
wait "$alone" 2>/dev/null
alone_start
report "also after a crash of the member" wait_until still_reads
rm "$work/alone/filler"
report "and written when there is room" wait_until alone_works after
kill -KILL "$alone"
wait "$alone" 2>/dev/null
umount "$work/alone"
exit 0
