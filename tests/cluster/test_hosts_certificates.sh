#!/bin/sh
# Hosts' certificates end, and are renewed before.
# needs: nothing
. "$(dirname "$0")/lib.sh"
command -v openssl >/dev/null || skip_all "no openssl to read certificates with"
without_machines=yes
security="--certificate-lifetime 20s"
. "$(dirname "$0")/hosts.sh"

mkdir -p "$work/witness"
network_start 3
members=3
host_boot 1 --found
# shellcheck disable=SC2086
wait_until on 1 cluster init $lease_times >/dev/null 2>&1
host_boot 2 --join "$(on 1 cluster token)@$(member_address 1)"
check "two hosts form a cluster" hosts_alive 2
host_boot 3 --join "$(on 1 cluster token)@$(member_address 1)" --role client
check "a client host joins" hosts_alive 3
quiet() {
    "$@" >/dev/null
}
ends() { # HOST: when its certificate does
    openssl x509 -noout -enddate -in "$work/data$1/tls/host.pem"
}
for i in 1 2 3; do
    ends "$i" >"$work/ends$i"
    cp -r "$work/data$i/tls" "$work/old$i"
done
other_end() {
    [ "$(ends "$1")" != "$(cat "$work/ends$1")" ]
}
check "a certificate is renewed by whoever has the CA's key" other_end 1
report "which the other host hasn't" test ! -e "$work/data2/tls/ca.key"
check "it gets a new one nevertheless" other_end 2
report "for the same key" cmp -s "$work/data2/tls/host.key" "$work/old2/host.key"
check "and so does the client host" other_end 3
report "which says again what it is" sh -c "openssl x509 -noout -subject -in '$work/data3/tls/host.pem' | grep -q client-host"
old_has_ended() {
    ! openssl x509 -noout -checkend 0 -in "$work/old2/host.pem" >/dev/null
}
check "the old one ends" old_has_ended
ferryd_kill 2
ferryd_start 2
check "a host that is started then is let in by the new one" hosts_alive_at 2 3
report "the client host is in touch by its new one" quiet on 3 cluster status
as() { # DIRECTORY-OF-CERTIFICATES HOST-ASKED
    ip netns exec "$net-hub" "$ferry" store get a --stale --store "$(member_address "$2")" --timeout 3s --tls-cert \
        "$1/host.pem" --tls-key "$1/host.key" --tls-ca "$1/ca.pem"
}
# Its last second is still one of its life.
check "but nobody by the old one" says "TLS" as "$work/old2" 1

[ "$failed" = 0 ] || show_logs
exit 0
