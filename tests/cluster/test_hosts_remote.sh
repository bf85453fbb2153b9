#!/bin/sh
# The cluster from another machine: `ferry vm` and `ferry cluster` by TLS with a client's certificate, what
# that is good for and what not, and who is turned away.
# needs: nothing
. "$(dirname "$0")/lib.sh"
command -v openssl >/dev/null || skip_all "no openssl to make certificates with"
without_machines=yes
security=
. "$(dirname "$0")/hosts.sh"

mkdir -p "$work/witness"
network_start 3
members=2
host_boot 1 --found
# shellcheck disable=SC2086
wait_until on 1 cluster init $lease_times >/dev/null 2>&1
host_boot 2 --join "$(on 1 cluster token)@$(member_address 1)"
check "two hosts form a cluster" hosts_alive 2

quiet() {
    "$@" >/dev/null
}

# The CA's key is with voters, on their disks, and in no log, snapshot or backup.
keyless() { # HOST
    [ ! -e "$work/data$1/tls/ca.key" ]
}
key_in_data() {
    grep -arq --exclude-dir=tls "PRIVATE KEY" "$work/data1" "$work/data2" "$work/saved"
}
report "the voter has the CA's key, for its owner alone" test "$(stat -c %a "$work/data1/tls/ca.key")" = 600
report "the learner hasn't" keyless 2
report "the other host takes the voter's place" quiet on 1 cluster voter replace h1 h2
report "and has the key now" test -s "$work/data2/tls/ca.key"
quiet on 2 cluster backup "$work/saved"
report "which is in no log, snapshot or backup" test "$(key_in_data && echo yes)" = ""

far() { # CLUSTER COMMAND...: on a machine that is no host
    cluster=$1
    shift
    FERRY_CLUSTER=$cluster hub "$ferry" "$@"
}
report "a host makes a client's certificate" quiet on 1 cluster client-certificate alice --out "$work/alice"
report "whose key is its owner's alone" test "$(stat -c %a "$work/alice/key.pem")" = 600
report "once for a directory" says "can't be made: File exists" on 1 cluster client-certificate alice --out "$work/alice"
report "a name that is none is told so" says "is not a name for a client" on 1 cluster client-certificate 'a/b' --out "$work/none"
report "and leaves nothing" test ! -e "$work/none"
report "the client asks from elsewhere" quiet far "$work/alice" cluster status
all_hosts() {
    [ "$(far "$work/alice" cluster hosts --format json | jq '.hosts | length')" = 2 ]
}
report "and sees all hosts" all_hosts
by_address() { # HOST
    hub "$ferry" cluster status --cluster "tls://$(member_address "$1")" --certificates "$work/alice" >/dev/null
}
report "by an address and a directory of certificates as well" by_address 2
report "the next address is tried where nobody answers" \
    quiet hub "$ferry" vm ls --cluster "tls://10.77.0.1:9,$(member_address 2)" --certificates "$work/alice"
changes() {
    far "$work/alice" cluster drain h2 && far "$work/alice" cluster undrain h2
}
report "it may change things" changes
noted() {
    grep -q "client 'alice' at 10.77.0.254:.*cluster.undrain h2" "$work/log1" "$work/log2"
}
report "which the log says" noted
far "$work/alice" vm create a --kernel /nowhere --stopped >/dev/null
report "also machines" test "$(far "$work/alice" vm ls --format json | jq '.machines | length')" = 1

# What lets others in is said on a host alone, whatever the command line would allow.
raw() { # LINES-TO-READ [CERTIFICATES]
    hub "$(dirname "$0")/tls_lines.py" "$(member_address 1)" ferry-control/1 $2 --lines "$1"
}
no_token() {
    echo '{"id":1,"method":"cluster.token"}' | raw 2 "$work/alice" | grep -q '"not-allowed"'
}
report "a client gets no token for hosts" no_token
no_end() {
    head -c 1200000 /dev/zero | tr '\0' x | raw 0 "$work/alice" | grep -q '"too-large"'
}
report "a line without an end is refused" no_end
no_sense() {
    head -c 100000 /dev/urandom | raw 2 "$work/alice" | grep -q '"parse-error"'
}
report "and so is garbage" no_sense
no_certificate() {
    raw 1 </dev/null | grep -q '"refused".*no certificate of this cluster'
}
report "without a certificate one gets nothing" no_certificate
report "it reads no store" says "not allowed: the certificate isn't that of a host" hub "$ferry" store get a \
    --store "$(member_address 1)" --timeout 3s --tls-cert "$work/alice/cert.pem" --tls-key \
    "$work/alice/key.pem" --tls-ca "$work/alice/ca.pem"
as_member() { # a whole ferryd that has the client's certificate in place of a host's
    ip netns exec "$net-hub" "$ferryd" --store-only --data "$work/false" --name alice --listen-peer \
        10.77.0.254:7000 --listen-client 10.77.0.254:7001 --join "$(on 1 cluster token)@$(member_address 1)" \
        --tls-cert "$work/alice/cert.pem" --tls-key "$work/alice/key.pem" --tls-ca "$work/alice/ca.pem"
}
report "it becomes no member" says "token is wrong" as_member
told_at_members_port() {
    says "TLS" hub "$ferry" store get a --store 10.77.0.1:7000 --timeout 3s --tls-cert "$work/alice/cert.pem" \
        --tls-key "$work/alice/key.pem" --tls-ca "$work/alice/ca.pem" &&
        grep -q "port for members at 10.77.0.254:.*it is a client's" "$work/log1"
}
check "it doesn't get in at the port for members, whose log says why" told_at_members_port

on 1 cluster client-certificate bob --out "$work/bob" --read-only >/dev/null
report "a certificate may be for looking only" quiet far "$work/bob" vm ls
report "then nothing is changed by it" says "may not do this" far "$work/bob" cluster drain h2

# Whom nobody knows.
mkdir "$work/other"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=alice \
    -keyout "$work/other/key.pem" -out "$work/other/cert.pem" 2>/dev/null
cp "$work/alice/ca.pem" "$work/alice/addresses" "$work/other"
report "a certificate of another CA is turned away" says "no certificate of this cluster" far "$work/other" vm ls
cp -r "$work/alice" "$work/mistaken"
cp "$work/other/cert.pem" "$work/mistaken/ca.pem"
report "and a cluster of another CA isn't spoken with" says "another CA has signed it" far "$work/mistaken" vm ls
on 1 cluster client-certificate brief --out "$work/brief" --ttl 1s >/dev/null
expired() {
    says "has expired on" far "$work/brief" vm ls
}
check "one that has expired is told so" expired
report "nor at a port that isn't that of clients" says "TLS\|doesn't speak" \
    hub "$ferry" vm ls --cluster tls://10.77.0.1:7000 --certificates "$work/alice"
report "a directory that is none is told so" says "neither a directory" far "$work/nowhere" vm ls
report "both a cluster and a host are too many" says "give one" \
    hub "$ferry" vm ls --cluster "$work/alice" --runtime-dir "$work/run1"

# Connections that say nothing don't keep others out.
holders=
i=0
while [ "$i" -lt 100 ]; do
    hub bash -c 'exec 3<>/dev/tcp/10.77.0.1/7001; read -r _ <&3' 2>/dev/null &
    holders="$holders $!"
    i=$((i + 1))
done
report "a hundred silent ones keep nobody out" by_address 1
# shellcheck disable=SC2086
kill $holders 2>/dev/null
wait $holders 2>/dev/null

# Taken back: at once, at every host, for connections that are there too.
raw 0 "$work/alice" </dev/null >"$work/held" 2>&1 &
holder=$!
wait_until grep -q hello "$work/held"
report "a certificate is taken back" quiet on 2 cluster client-revoke alice
taken_back() { # HOST
    says "it was taken back" hub "$ferry" vm ls --cluster "tls://$(member_address "$1")" --certificates "$work/alice"
}
check "then no host takes it" taken_back 1
check "none" taken_back 2
report "who was there is cut off" wait "$holder"
state_of() {
    on 1 cluster clients --format json | jq -r ".clients[] | select(.name == \"$1\") | .revoked"
}
report "the list of clients says so" test "$(state_of alice) $(state_of bob)" = "true false"
report "another client's is as good as before" quiet far "$work/bob" vm ls
report "whom nobody gave one is told so" says "no client has a certificate" on 1 cluster client-revoke nobody

# A host that is removed, whose files somebody has.
members=3
host_boot 3 --join "$(on 1 cluster token)@$(member_address 1)"
check "another host joins" hosts_alive 3
cp -r "$work/data3/tls" "$work/stolen"
cp "$work/stolen/host.pem" "$work/stolen/cert.pem"
cp "$work/stolen/host.key" "$work/stolen/key.pem"
power_off 3
stolen() { # HOST-ASKED
    hub "$ferry" store members --store "$(member_address "$1")" --timeout 5s --tls-cert "$work/stolen/host.pem" \
        --tls-key "$work/stolen/host.key" --tls-ca "$work/stolen/ca.pem"
}
report "a copy of its certificate is as good as the host's" quiet stolen 2
raw 0 "$work/stolen" </dev/null >"$work/held" 2>&1 &
holder=$!
check "also for the lines of the client protocol" grep -q hello "$work/held"
removed() {
    on 1 cluster remove h3 2>/dev/null
}
check "the host is removed" removed
worthless() { # HOST-ASKED
    says "not allowed: the certificate" stolen "$1"
}
check "then its certificate is worth nothing" worthless 1
check "at any host" worthless 2
report "who was there by it is cut off" wait "$holder"
said_so() {
    grep -q "its host was removed from the cluster" "$work/log1"
}
report "as the logs say" said_so
report "all other hosts are still there" hosts_alive 2
check "who isn't a voter any more has removed the CA's key" keyless 1
[ "$failed" = 0 ] || show_logs
exit 0
