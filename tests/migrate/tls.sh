#!/bin/sh
# Moves by TLS: certificates on both sides, on every connection of a move.
# needs: kvm
. "$(dirname "$0")/lib.sh"

if ! command -v openssl >/dev/null; then
    skip "moves by TLS" "no openssl to make certificates with"
    exit 0
fi
make_ca ca
make_ca other
make_certificate hosta ca
make_certificate hostb ca
make_certificate stranger other

# receive_tls HOST [OPTION]...
receive_tls() {
    receive_scheme=tls
    # shellcheck disable=SC2046 # several words
    receive "$@" $(tls "host$1")
    receive_scheme=tcp
}
# go FROM [OPTION]...: to $place, with FROM's certificate, or that of $as.
as=
go() {
    from=$1
    shift
    # shellcheck disable=SC2046
    at "$from" ferry migrate p "$place" --downtime 3s $(tls "${as:-host$from}") "$@"
}
holds_at() {
    at "$1" ferry pause p >/dev/null && pattern_holds "$1" p && at "$1" ferry resume p >/dev/null
}

at a run p "pattern size=1M rate=50" >/dev/null
find_parts a p
receive_tls b
check "a machine moves" go a
check "with its memory" holds_at b
receive_tls a
check "and back, over 4 connections" go b --streams 4
check "with its memory again" holds_at a
receive_tls b
says "a target with the certificate of another host is refused" 1 "*another host*" go a --tls-name hosta.example
check "one with the right one isn't" go a --tls-name hostb.example
check "and has the machine" holds_at b

# ---- just that one ----
digest() { # CERTIFICATE
    echo "sha256:$(openssl x509 -in "$work/$1.pem" -outform DER | sha256sum | cut -d' ' -f1)"
}
receive_tls a --tls-peer "$(digest hosta)"
says "a source with another certificate than the one that is expected is told so" 1 "*not the one that is expected*" go b
kill "$receiver"
receive_tls a --tls-peer "$(digest hostb)"
check "one with that one is let in" go b --streams 2
receive_tls b
check "and back" go a
says "what is expected is a digest" 2 "*sha256:DIGEST*" at a ferry receive --listen tls://127.0.0.1:0 --tls-peer hostb \
    --tls-cert "$work/hosta.pem" --tls-key "$work/hosta.key" --tls-ca "$work/ca.pem"

# ---- others ----
receive_tls a
as=stranger
says "a source with another CA's certificate is refused" 1 "*TLS*" go b
as=
says "a source that says nothing of TLS" 1 "*" at b ferry migrate p "tcp://${place#tls://}"
head -c 100000 /dev/urandom | socat -t 5 - "TCP:${place#tls://}" >/dev/null 2>&1
check "the machine runs on, whole" holds_at b
check "the target waits on, and takes it from whom it should" go b
check "it is whole there" holds_at a
receive_scheme=tls
# shellcheck disable=SC2046
receive b $(tls stranger other)
says "a target with another CA's certificate" 1 "*TLS*another CA*" go a
kill "$receiver"
receive_scheme=tcp
receive b
place=tls://${place#tcp://}
says "a target that knows nothing of TLS" 1 "*does the other side use tls://*" go a
kill "$receiver"
check "the machine runs on, whole" holds_at a

# ---- the end of the link: the question goes by TLS too ----
FERRY_FAILURE_POINT=target-before-start:cut
export FERRY_FAILURE_POINT
receive_tls b
unset FERRY_FAILURE_POINT
check "a cut after COMMIT" go a
check "it runs where it should" holds_at b

# ---- on the way ----
# carry SCHEME: a machine moves from a to b through a relay that keeps what came by.
carry() {
    run_name=told$1
    at a run "$run_name" idle >/dev/null || return
    if [ "$1" = tls ]; then receive_tls b; else receive b; fi
    relay=$(mktemp -u "$work/relay.XXXXXX")
    socat -d -d -r "$relay" "TCP-LISTEN:0,bind=127.0.0.1,reuseaddr" "TCP:${place#*://}" 2>"$relay.log" &
    echo $! >>"$work/receivers"
    await grep -q 'listening on' "$relay.log"
    port=$(sed -n 's/.*listening on .*:\([0-9]*\)$/\1/p' "$relay.log" | head -1)
    # shellcheck disable=SC2046
    at a ferry migrate "$run_name" "$1://127.0.0.1:$port" --downtime 3s $([ "$1" = tcp ] || tls hosta) >"$work/said" 2>&1 ||
        { cat "$work/said" "$heard"; return 1; }
    found=$(grep -ac "$run_name" "$relay")
}
carry tcp
check "plain, everybody on the way reads along" [ "$found" -gt 0 ]
carry tls
check "by TLS nobody does" [ "$found" = 0 ]

# ---- the command line ----
says "tls:// wants certificates" 2 "*--tls-cert*" at a ferry receive --listen tls://127.0.0.1:0
# shellcheck disable=SC2046
says "and they want tls://" 2 "*tls://*" at a ferry receive --listen tcp://127.0.0.1:0 $(tls hosta)
says "migrate as well" 1 "*--tls-cert*" at b ferry migrate p tls://127.0.0.1:1
# shellcheck disable=SC2046
says "and the other way round" 1 "*tls://*" at b ferry migrate p tcp://127.0.0.1:1 $(tls hostb)
says "a file that isn't there" 1 "*nowhere*No such file*" at b ferry migrate p tls://127.0.0.1:1 \
    --tls-cert "$work/nowhere" --tls-key "$work/hostb.key" --tls-ca "$work/ca.pem"
says "a key of another certificate" 1 "*TLS*" at b ferry migrate p tls://127.0.0.1:1 \
    --tls-cert "$work/hostb.pem" --tls-key "$work/hosta.key" --tls-ca "$work/ca.pem"
says "a CA file without one" 2 "*TLS*CA*" at a ferry receive --listen tls://127.0.0.1:0 \
    --tls-cert "$work/hosta.pem" --tls-key "$work/hosta.key" --tls-ca "$work/hosta.key"
says "beyond loopback something is wanted" 2 "*tls://*--token*--insecure*" at a ferry receive --listen tcp://0.0.0.0:0
says "a token is for one machine" 2 "*one machine*" at a ferry receive --listen tcp://127.0.0.1:0 --keep --token auto
finish
