#!/bin/sh
# Members come, go and are replaced while clients are at work; tokens; snapshot and restore; leases.
. "$(dirname "$0")/lib.sh"
ferryd=$build/tests/cluster/faulty_disk

if ! cluster_start 3; then
    echo "not ok - a cluster of three comes up"
    tail -n 5 "$work"/log* | sed 's/^/# /'
    exit 1
fi
echo "ok - a cluster of three comes up"
network_add 4
network_add 5
gone() {
    ! kill -0 "$(member_pid "$1")" 2>/dev/null
}

history_start 15 1
sleep 1
cluster_join 4
cluster_join 5
report "two more join while clients work" wait_until voters_are 5
store members remove m1 m2
report "two are removed in one step" wait_until voters_are 3
report "a removed member ends by itself" wait_until gone 1
report "and so does the other" wait_until gone 2
rm -rf "$work/data1" "$work/data2"
cluster_join 1
cluster_join 2
report "two new ones take their places" wait_until voters_are 5
history_end "members come and go"

token=$(store members token --ttl 1h)
rm -rf "$work/dataX"
used() { # the token is used up by this
    ip netns exec "$net-1" "$ferryd" --store-only --data "$work/dataX" --name x --listen-peer \
        10.77.0.1:7900 --listen-client 10.77.0.1:7901 --insecure --join "$1@$(addresses)" \
        >"$work/logX" 2>&1 &
    pidX=$!
}
used "$token"
report "a token admits one" wait_until voters_are 6
kill -KILL "$pidX"
id=$(store members --format json | jq -r '.members[] | select(.name == "x") | .id')
store members remove "$id"
report "and its member goes" wait_until voters_are 5
rm -rf "$work/dataX"
used "$token"
wait "$pidX"
report "and no second one" grep -q "token is wrong, used already, or expired" "$work/logX"

lease=$(store lease grant --ttl 3s --format json | jq .lease)
store put leased value --lease "$lease" >/dev/null
lease_lives() {
    store get leased >/dev/null
}
report "a leased key is there" lease_lives
lease_over() {
    ! store get leased >/dev/null 2>&1
}
report "and goes with its lease" wait_until lease_over

lease=$(store lease grant --ttl 5s --format json | jq .lease)
store put leased value --lease "$lease" >/dev/null
one=$(leader)
member_kill "$one"
renewed() {
    store lease renew "$lease" >/dev/null 2>&1
}
report "a lease is renewed at a new leader" wait_until renewed
report "and its key is still there" lease_lives
member_start "$one"
report "without renewals it goes" wait_until lease_over

store put kept value >/dev/null
hub "$ferry" store snapshot "$work/saved" --store "$(member_address "$(leader)")"
"$ferry" store restore "$work/saved" --data "$work/restored" --name r --peer 10.77.0.3:7800 \
    --client 10.77.0.3:7801
ip netns exec "$net-3" "$ferryd" --store-only --data "$work/restored" --name r --listen-peer \
    10.77.0.3:7800 --listen-client 10.77.0.3:7801 --insecure >"$work/logR" 2>&1 &
restored=$!
has_key() {
    [ "$(hub "$ferry" store get kept --store 10.77.0.3:7801 2>/dev/null)" = value ]
}
report "a snapshot becomes a new cluster with the same keys" wait_until has_key
one_member() {
    [ "$(hub "$ferry" store members --format json --store 10.77.0.3:7801 | jq '.members|length')" = 1 ]
}
report "of one member" one_member
kill -KILL "$restored"
wait "$restored" 2>/dev/null
is_sound() {
    "$ferry" store check "$work/restored" >/dev/null
}
report "and its directory is sound" is_sound

# The cluster's version of commands is raised when the last member understands the newer one.
version_is() {
    [ "$(store status --format json | jq .cluster_version)" = "$1" ]
}
export FERRY_TEST_COMMANDS=2
for i in 1 2 3 4; do
    member_kill "$i"
    member_start "$i"
    wait_until voters_are 5
    wait_until store put step "$i" >/dev/null
done
report "newer commands wait for the last member" version_is 1
member_kill 5
member_start 5
report "and are used when it has come" wait_until version_is 2
export FERRY_TEST_COMMANDS=1
member_kill 5
member_start 5
report "a member that is too old says so and stops" wait_until gone 5
report "in words" grep -q "install the version that the other members run" "$work/log5"
unset FERRY_TEST_COMMANDS
exit 0
