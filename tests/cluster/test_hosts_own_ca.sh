#!/bin/sh
# A cluster with certificates of somebody's own CA: a host that is removed is let in nowhere by its old files.
# needs: nothing
. "$(dirname "$0")/lib.sh"
command -v openssl >/dev/null || skip_all "no openssl to make certificates with"
without_machines=yes
. "$(dirname "$0")/hosts.sh"

mkdir -p "$work/witness"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=own CA" -keyout "$work/ca.key" \
    -out "$work/ca.pem" 2>/dev/null
certificate() { # NAME
    mkdir -p "$work/$1"
    cp "$work/ca.pem" "$work/$1/ca.pem"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$work/$1/key.pem" \
        -out "$work/csr" 2>/dev/null
    openssl x509 -req -in "$work/csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
        -out "$work/$1/cert.pem" 2>/dev/null
}
boot() { # HOST CERTIFICATE OPTION...
    one=$1
    security="--tls-cert $work/$2/cert.pem --tls-key $work/$2/key.pem --tls-ca $work/$2/ca.pem"
    shift 2
    host_boot "$one" "$@"
}
for i in 1 2 3 4; do
    certificate "c$i"
done
certificate spare
network_start 4
members=1
boot 1 c1 --found
# shellcheck disable=SC2086
wait_until on 1 cluster init $lease_times >/dev/null 2>&1
members=4
boot 2 c2 --join "$(on 1 cluster token)@$(member_address 1)"
check "a host joins by its certificate and a token" hosts_alive 2
ferryd_kill 2
cp -r "$work/data2" "$work/copy2"
ferryd_start 2
check "and is there again" hosts_alive 2
boot 3 c3 --join "$(on 1 cluster token)@$(member_address 1)"
check "another" hosts_alive 3
boot 4 c4 --join "$(on 1 cluster token)@$(member_address 1)" --role client
check "and a client host" hosts_alive 4

as() { # DIRECTORY HOST-ASKED STORE-COMMAND...
    directory=$work/$1
    asked=$2
    shift 2
    hub "$ferry" store "$@" --store "$(member_address "$asked")" --timeout 5s --tls-cert "$directory/cert.pem" \
        --tls-key "$directory/key.pem" --tls-ca "$directory/ca.pem"
}
lines() { # HOST-ASKED PROTOCOL LINES
    hub "$(dirname "$0")/tls_lines.py" "$(member_address "$1")" "$2" "$work/c3" --lines "$3"
}
quiet() {
    "$@" >/dev/null
}
report "a copy of a host's certificate reads the store" quiet as c3 1 get ferry/settings
lines 1 ferry-control/1 0 </dev/null >"$work/held" 2>&1 &
holder=$!
check "and speaks the client protocol" grep -q hello "$work/held"

power_off 3
removed() {
    on 1 cluster remove h3 2>/dev/null
}
check "the host is removed" removed
for i in 1 2; do
    refused() {
        says "not allowed: the certificate" as c3 "$i" get ferry/settings
    }
    check "then member $i refuses its certificate" refused
done
report "who was there by it is cut off" wait "$holder"
no_lines() { # HOST PROTOCOL
    lines "$1" "$2" 1 </dev/null | grep -q '"refused".*its host was removed from the cluster'
}
report "the client protocol refuses it, and says why" no_lines 2 ferry-control/1
check "a client host too" no_lines 4 ferry-stream/1
# With its old directory, and as another member.
boot 3 c3
told_gone() {
    grep -q "this member was removed from the cluster" "$work/log3"
}
check "its ferryd hears that it was removed" told_gone
power_off 3
rm -rf "$work/data3"
mv "$work/copy2" "$work/data3"
boot 3 c3
refused_as_member() {
    grep -q "port for members at 10.77.0.3:.*its host was removed" "$work/log1" "$work/log2"
}
check "nor is its certificate good for another member" refused_as_member
power_off 3
rm -rf "$work/data3"
: >"$work/log3"
boot 3 c3 --join "$(on 1 cluster token)@$(member_address 1)"
not_admitted() {
    grep -q "not allowed\|denied\|token is wrong" "$work/log3"
}
check "by a token it doesn't come in either" not_admitted
power_off 3
boot 3 spare --join "$(on 1 cluster token)@$(member_address 1)"
check "with a new certificate it does" hosts_alive 4
report "other hosts' are as good as before" quiet as c2 1 get ferry/settings

# One certificate for two hosts: it stays good for the other one.
power_off 3
check "it is removed again" removed
rm -rf "$work/data3"
boot 3 c2 --join "$(on 1 cluster token)@$(member_address 1)"
check "a host may have the same certificate as another" hosts_alive 4
power_off 3
check "that host is removed" removed
report "the other one's is good nevertheless" quiet as c2 1 get ferry/settings
[ "$failed" = 0 ] || show_logs
exit 0
