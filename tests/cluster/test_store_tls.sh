#!/bin/sh
# Members and clients by TLS: certificates of the cluster's CA are let in, others and plain text aren't.
. "$(dirname "$0")/lib.sh"

command -v openssl >/dev/null || skip_all "no openssl to make certificates with"
key="ec -pkeyopt ec_paramgen_curve:P-256"
make_ca() {
    # shellcheck disable=SC2086
    openssl req -x509 -newkey $key -nodes -days 2 -subj "/CN=$1" -keyout "$work/$1.key" \
        -out "$work/$1.pem" 2>/dev/null
}
make_certificate() { # name CA [key [expired]]
    # shellcheck disable=SC2086
    openssl req -newkey ${3:-$key} -nodes -subj "/CN=$1" -keyout "$work/$1.key" -out "$work/$1.csr" 2>/dev/null
    echo "subjectAltName = DNS:store.example" >"$work/names"
    if [ -n "$4" ]; then # openssl x509 of Debian 12 can't date certificates back, openssl ca can
        mkdir -p "$work/ca.d"
        : >"$work/ca.d/index"
        echo 01 >"$work/ca.d/serial"
        cat >"$work/ca.d/conf" <<EOF
[ca]
default_ca = this
[this]
database = $work/ca.d/index
serial = $work/ca.d/serial
new_certs_dir = $work/ca.d
default_md = sha256
policy = any
[any]
commonName = supplied
EOF
        openssl ca -batch -config "$work/ca.d/conf" -cert "$work/$2.pem" -keyfile "$work/$2.key" \
            -startdate 20200101000000Z -enddate 20200102000000Z -in "$work/$1.csr" \
            -out "$work/$1.pem" -notext 2>/dev/null
        return
    fi
    openssl x509 -req -in "$work/$1.csr" -CA "$work/$2.pem" -CAkey "$work/$2.key" -CAcreateserial \
        -extfile "$work/names" -days 2 -out "$work/$1.pem" 2>/dev/null
}
make_ca ca
make_ca other
make_certificate member ca
make_certificate stranger other

network_start 2
members=2
tls() { # certificate
    echo "--tls-cert $work/$1.pem --tls-key $work/$1.key --tls-ca $work/ca.pem"
}
as() { # certificate, then a store command
    certificate=$1
    shift
    # shellcheck disable=SC2046
    hub "$ferry" store "$@" --store "$(member_address 1)" --timeout 2s $(tls "$certificate")
}
# shellcheck disable=SC2046
member_start 1 --found $(tls member)
member_in() {
    as member put key value >/dev/null 2>&1
}
report "a certificate of the CA is let in" wait_until member_in
client_in() {
    as client get key >/dev/null
}
for kind in "ec -pkeyopt ec_paramgen_curve:P-384" rsa:2048 ed25519; do
    make_certificate client ca "$kind"
    report "and so is one with a key of the kind $kind" client_in
done
make_certificate client ca rsa:1024
weak_out() {
    ! client_in 2>/dev/null
}
report "a key that is too short isn't" weak_out
report "one of another CA isn't, and is told so" says "TLS: the other side refused" as stranger get key
report "nor is plain text, and it is told why" says "the member speaks TLS: give --tls-cert" \
    hub "$ferry" store get key --store "$(member_address 1)" --timeout 2s
make_certificate expired ca "$key" expired
report "nor one that has expired" says "TLS: the other side refused" as expired get key
with_ca() { # CA file that the client trusts
    hub "$ferry" store get key --store "$(member_address 1)" --timeout 2s --tls-cert \
        "$work/member.pem" --tls-key "$work/member.key" --tls-ca "$work/$1.pem"
}
report "a client refuses a member of another CA" says "another CA has signed it" with_ca other
report "a client that asks for a name refuses another one" says "it is for another host" \
    as member get key --tls-name somebody.else
right_name() {
    [ "$(as member get key --tls-name store.example)" = value ]
}
report "and takes the right one" right_name
plain_member() { # a client with TLS at a member without
    ip netns exec "$net-2" "$ferryd" --store-only --data "$work/plain" --name plain --listen-peer \
        127.0.0.1:7800 --listen-client 127.0.0.1:7801 --found >"$work/plain.log" 2>&1 &
    plain=$!
    wait_until grep -q "clients at" "$work/plain.log"
    # shellcheck disable=SC2046
    says "TLS" ip netns exec "$net-2" "$ferry" store get key --store 127.0.0.1:7801 --timeout 2s \
        $(tls member)
    said=$?
    kill "$plain"
    wait "$plain" 2>/dev/null
    return "$said"
}
report "a client with TLS says so at a member without" plain_member
report "the member's log says who was turned away" grep -q "a client at .* was turned away: TLS" "$work/log1"
still_there() {
    [ "$(as member get key)" = value ]
}
report "the member goes on" still_there

token=$(as member members token)
wrong_ca() {
    # shellcheck disable=SC2046
    ip netns exec "$net-2" "$ferryd" --store-only --data "$work/nobody" --name n --listen-peer \
        10.77.0.2:7800 --listen-client 10.77.0.2:7801 --join "$token@$(member_address 1)" \
        --tls-cert "$work/stranger.pem" --tls-key "$work/stranger.key" --tls-ca "$work/other.pem"
}
report "who would join by another CA's files is told so by the token" \
    says "isn't that of the cluster which made the token" wrong_ca
# shellcheck disable=SC2046
member_start 2 --join "$token@$(member_address 1)" $(tls member)
joined() {
    [ "$(as member members --format json | jq '[.members[] | select(.role == "voter")] | length')" = 1 ]
}
report "members talk by TLS" wait_until joined
caught_up() {
    [ "$(hub "$ferry" store get key --stale --store "$(member_address 2)" $(tls member))" = value ]
}
report "and copy what there is" wait_until caught_up
exit 0
