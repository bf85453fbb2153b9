#!/bin/sh
# Five members while they are killed, stopped and cut off from each other; the clients' histories are
# judged at the end of each round.
. "$(dirname "$0")/lib.sh"

if ! cluster_start 5; then
    echo "not ok - a cluster of five comes up"
    tail -n 5 "$work"/log* | sed 's/^/# /'
    exit 1
fi
echo "ok - a cluster of five comes up"

history_start 20 1
sleep 1
for round in 1 2 3; do
    one=$(leader)
    member_kill "$one"
    sleep 2
    member_start "$one"
    other=$(follower)
    member_kill "$other"
    sleep 1
    member_start "$other"
    sleep 1
done
history_end "leaders and followers killed"

history_start 16 2
sleep 1
for round in 1 2 3; do
    one=$(leader)
    kill -STOP "$(member_pid "$one")"
    sleep 2
    kill -CONT "$(member_pid "$one")"
    sleep 1
done
history_end "leaders stopped and continued"

history_start 24 3
sleep 1
isolate "$(leader)"
sleep 3
heal
one=$(leader) # hears nobody, is heard by all
for i in 1 2 3 4 5; do
    [ "$i" != "$one" ] && cut "$one" "$i"
done
sleep 3
heal
one=$(leader) # is heard by nobody, hears all
for i in 1 2 3 4 5; do
    [ "$i" != "$one" ] && cut "$i" "$one"
done
sleep 3
heal
sleep 1
for i in 1 2 3 4 5; do # a ring: each hears only its neighbours
    for j in 1 2 3 4 5; do
        d=$(((i - j + 5) % 5))
        [ "$d" = 2 ] || [ "$d" = 3 ] && cut "$i" "$j"
    done
done
sleep 4
heal
history_end "partitions: whole, one-way, a ring"

history_start 12 4
for i in 1 2 3 4 5; do
    lose "$i" 20
done
sleep 4
store move-leader "m$(follower)" >/dev/null 2>&1
sleep 4
heal
history_end "a fifth of all packets lost, leadership moved"
exit 0
