#!/bin/sh
# Members that talk through a proxy which delays, stalls, holes and resets their connections: what the
# packet filter can't do. The clients' histories are judged.
#   test_store_proxy.sh [MEMBERS]
. "$(dirname "$0")/lib.sh"
size=${1:-3}

network_start "$size"
proxy_start "$size"
if ! cluster_found "$size"; then
    echo "not ok - $size members come up through a proxy"
    tail -n 5 "$work"/log* "$work/proxy" | sed 's/^/# /'
    exit 1
fi
echo "ok - $size members come up through a proxy"

history_start 9 1
rules "0 0 1 40 0 pass"
sleep 3
rules "0 0 1 10 5 pass"
sleep 3
one=$(leader)
rules "$one 0 100 150 0 pass" # the leader's words come late, everybody else's at once
sleep 2
rules
history_end "delays and lost packets"

history_start 14 2
one=$(leader)
rules "$one 0 0 0 0 hole" # what the leader says is held back, and arrives when another one leads
sleep 3
rules
sleep 1
one=$(leader)
rules "0 $one 0 0 0 hole" # the leader hears nobody
sleep 3
rules "0 0 0 0 0 reset" # and every connection breaks
sleep 1
rules
sleep 1
for round in 1 2 3 4; do # connections that break all the time
    rules "0 0 0 0 0 reset"
    sleep 0.2
    rules "0 0 0 5 0 pass"
    sleep 0.8
done
rules
history_end "held back words and broken connections"

# A watch at a member that was cut off goes on at another one.
one=$(follower)
others=$(addresses | sed "s/$(member_address "$one"),*//")
ip netns exec "$net-hub" "$ferry" store watch watched --store "$(member_address "$one"),$others" >"$work/watched" 2>&1 &
watch_pid=$!
sees() {
    store put watched "$1" >/dev/null 2>&1
    grep -q "$1" "$work/watched"
}
report "a watch sees changes" wait_until sees first
rules "$one 0 0 0 0 hole" "0 $one 0 0 0 hole"
report "and goes on where the cluster does when its member is cut off" wait_until sees second
rules
kill "$watch_pid"
wait "$watch_pid" 2>/dev/null

history_start 5 3
history_end "all is well again"
exit 0
