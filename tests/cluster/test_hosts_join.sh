#!/bin/sh
# A cluster with certificates of its own: founded, joined by tokens, and what is tried at its door by
# those who have none, or are killed on the way.
# needs: nothing
. "$(dirname "$0")/lib.sh"
without_machines=yes
security=
. "$(dirname "$0")/hosts.sh"

is_waiting() {
    grep -qs "waiting for .ferry cluster init" "$work/log$1"
}
members_are() { # COUNT
    [ "$(on 1 cluster status --format json | jq '.members | length')" = "$1" ]
}
mkdir -p "$work/witness"
network_start 4
members=3
for i in 1 2 3; do
    host_boot "$i"
    check "host $i waits to be told" is_waiting "$i"
done
report "it says so" says "belongs to no cluster yet" on 1 cluster status
report "times that are unsafe make no cluster" says "lease" on 1 cluster init --lease 1s --deadline 2s
report "and nothing is left of the try" test ! -e "$work/data1/tls"
# shellcheck disable=SC2086
report "a cluster is founded" on 1 cluster init $lease_times
report "once" says "set up already" on 1 cluster init
report "the key is its host's alone" test "$(stat -c %a "$work/data1/tls/host.key")" = 600

token=$(on 1 cluster token)
wrong=$(echo "$token" | tr 0-9a-f 1-9a-f0)
secret=${token%.*}
# What the CA is called in the token is another's: nothing is told to whoever answers.
report "a token of another cluster goes nowhere" says "TLS: the other side's certificate is refused" \
    on 2 cluster join "$secret.${wrong#*.}@$(member_address 1)"
for command in release clients "drain h1" "voter add h1"; do
    # shellcheck disable=SC2086
    report "a host of no cluster says so ($command)" says "belongs to no cluster yet" on 3 cluster $command
done
report "a wrong token is told so" says "token is wrong, used already, or expired" \
    on 2 cluster join "${wrong%.*}.${token#*.}@$(member_address 1)"
report "and so is what isn't one" says "not a token" on 2 cluster join "abc@$(member_address 1)"
report "or one without an address" says "where to join is missing" on 2 cluster join "$token"
report "or one that names no CA" says "names no CA" on 2 cluster join "$secret@$(member_address 1)"
report "an address where nobody is, as well" says "Connection refused" on 2 cluster join "$token@10.77.0.3:7001"
expired=$(on 1 cluster token --ttl 1s)
sleep 2.1
report "an expired one is told so" says "token is wrong, used already, or expired" \
    on 2 cluster join "$expired@$(member_address 1)"
report "none of them has become a member" members_are 1

# Whoever has no certificate gets nothing but that.
if command -v openssl >/dev/null; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other \
        -keyout "$work/other.key" -out "$work/other.pem" 2>/dev/null
    report "a certificate of another CA isn't let in" says "not allowed: the certificate" \
        ip netns exec "$net-4" "$ferry" store get a --store "$(member_address 1)" --timeout 3s --tls-cert \
        "$work/other.pem" --tls-key "$work/other.key" --tls-ca "$work/data1/tls/ca.pem"
fi
as_host() {
    ip netns exec "$net-4" "$ferry" store "$@" --store "$(member_address 1)" --timeout 5s --tls-cert \
        "$work/data1/tls/host.pem" --tls-key "$work/data1/tls/host.key" --tls-ca "$work/data1/tls/ca.pem"
}
report "one of the cluster's is" as_host put from-afar yes
hidden() {
    [ "$(as_host get --prefix "" | grep -c 'PRIVATE KEY')" = 0 ]
}
report "which doesn't read the CA's key" hidden
garbage() { # to PORT
    ip netns exec "$net-4" timeout 5 bash -c "exec 3<>/dev/tcp/10.77.0.1/$1; head -c 100000 /dev/urandom >&3" 2>/dev/null
    ip netns exec "$net-4" timeout 5 bash -c \
        "exec 3<>/dev/tcp/10.77.0.1/$1; printf '\\377\\377\\377\\377\\0\\0\\0\\0\\1\\0\\20\\0' >&3; head -c 1 <&3 >/dev/null" 2>/dev/null
    true
}
garbage 7001
garbage 7000
report "garbage at its ports does nothing" on 1 cluster status

report "a host joins by its token" on 2 cluster join "$token@$(member_address 1)"
check "and is alive" hosts_alive 2
report "only once" says "a member of a cluster already" on 2 cluster join "$token@$(member_address 1)"
report "the token is used up" says "token is wrong, used already, or expired" \
    on 3 cluster join "$token@$(member_address 1)"

# Killed in the middle of joining, at several points: the same token does, and makes one member.
token=$(on 1 cluster token)
for delay in 0 0.01 0.03 0.08; do
    on 3 cluster join "$token@$(member_address 2)" >/dev/null 2>&1 &
    asking=$!
    sleep "$delay"
    ferryd_kill 3
    kill "$asking" 2>/dev/null
    wait "$asking" 2>/dev/null
    : >"$work/log3"
    ferryd_start 3
    check "after a kill at $delay s it is there again" grep -q -e "waiting for" -e "member.*: peers at" "$work/log3"
done
joined_or_joins() {
    on 3 cluster join "$token@$(member_address 2)" >"$work/said" 2>&1 || grep -q "member of a cluster already" "$work/said"
}
report "the same token goes on, by another member's address" joined_or_joins
check "then the host is alive" hosts_alive 3
report "as one member" members_are 3
three() {
    [ "$(on 3 cluster status --format json | jq .voters)" = 3 ]
}
check "and a voter" three
report "the CA's key was handed to it" test -s "$work/data3/tls/ca.key"

for i in 1 2 3; do
    power_off "$i"
done
# As if one had been killed between its log and the end of joining.
echo "0000000000000001 left" >"$work/data3/joining"
rm "$work/data3/tls/ca.key"
cp "$work/data1/tls/host.key" "$work/data2/tls/ca.key"
for i in 1 2 3; do
    host_boot "$i"
done
check "all come back by the certificates that they have" hosts_alive 3
for i in 2 3; do
    check "a voter that lost the CA's key, or has a wrong one, gets it from another" \
        cmp -s "$work/data1/tls/ca.key" "$work/data$i/tls/ca.key"
done
report "nothing of joining is left" test ! -e "$work/data3/joining"
[ "$failed" = 0 ] || show_logs
exit 0
