#!/bin/sh
# Five members behind the proxy, for as long as a regular run has: words that are late, lost, and held
# back until others lead. Clients' histories are judged. test_store_proxy.sh has the long way, also
# for five.
. "$(dirname "$0")/lib.sh"
size=5

network_start "$size"
proxy_start "$size"
if ! cluster_found "$size"; then
    echo "not ok - five members come up through a proxy"
    tail -n 5 "$work"/log* "$work/proxy" | sed 's/^/# /'
    exit 1
fi
echo "ok - five members come up through a proxy"

history_start 8 1
rules "0 0 1 30 3 pass"
sleep 2
one=$(leader)
two=$((one % size + 1))
# Two of five, the leader among them, speak into the void: three go on, and hear it all afterwards.
rules "$one 0 0 0 0 hole" "$two 0 0 0 0 hole"
sleep 2
rules "0 0 1 20 1 pass"
sleep 1
member_kill "$(leader)" # and one dies, while words are late
sleep 1
rules
for i in 1 2 3 4 5; do
    kill -0 "$(member_pid "$i")" 2>/dev/null || member_start "$i"
done
history_end "late, lost and held back words, and a death"
report "all five are there in the end" wait_until voters_are "$size"
exit 0
