#!/bin/sh
# A cluster of an older version, with the key of its CA in the store: the key goes to the voters, and to them alone,
# and is gone from the store once all of them have it.
# needs: nothing
. "$(dirname "$0")/lib.sh"
without_machines=yes
security="--snapshot-entries 40"
. "$(dirname "$0")/hosts.sh"

mkdir -p "$work/witness"
network_start 5
members=5
set --
for i in 1 2 3 4; do
    [ "$i" = 4 ] && role=learner || role=voter
    set -- "$@" "$work/data$i" "h$i" "10.77.0.$i:7000" "$(member_address "$i")" "$role"
done
report "the directories are made" "$build/tests/cluster/old_ca" "$@"

key_is_in() { # FILE...
    grep -arsq "PRIVATE KEY" "$@"
}
has_key() { # HOST
    [ -s "$work/data$1/tls/ca.key" ]
}
same_key() { # HOST
    cmp -s "$work/data1/tls/ca.key" "$work/data$1/tls/ca.key"
}
backup_has_key() {
    rm -f "$work/saved"
    on 1 cluster backup "$work/saved" >/dev/null 2>&1 && key_is_in "$work/saved"
}

# One voter is missing: it couldn't have the key, and may be the only one that is left some day.
host_boot 1
host_boot 2
host_boot 4
# shellcheck disable=SC2086
wait_until on 1 cluster init $lease_times >/dev/null 2>&1
check "two of three voters go on" hosts_alive 3
check "a voter takes the key to its disk" has_key 1
check "the other one too" same_key 2
report "for their owners alone" test "$(stat -c %a "$work/data1/tls/ca.key" "$work/data2/tls/ca.key" | uniq)" = 600
report "the learner doesn't" test ! -e "$work/data4/tls/ca.key"
report "as long as a voter hasn't it, it is in the store" backup_has_key
host_boot 3
check "the third voter gets it" same_key 3
moved_out() {
    rm -f "$work/saved"
    on 1 cluster backup "$work/saved" >/dev/null 2>&1 && ! key_is_in "$work/saved"
}
check "then it is in no backup any more" moved_out
report "which is that of a cluster with its CA" grep -aq "BEGIN CERTIFICATE" "$work/saved"

# Nor in what members keep, once they have made a snapshot, and in what they send.
forgotten() {
    ! key_is_in --exclude-dir=tls "$work/data1" "$work/data2" "$work/data3" "$work/data4"
}
check "nor in any log or snapshot, once new ones were made" forgotten
host_boot 5 --join "$(on 1 cluster token)@$(member_address 1)" --role learner
check "a host that joins now gets a certificate of the CA" hosts_alive 5
joined_without() {
    [ -s "$work/data5/tls/host.pem" ] && ! key_is_in --exclude=host.key "$work/data5"
}
report "and nothing of its key" joined_without
report "nor has the learner come to it" test ! -e "$work/data4/tls/ca.key"

# Certificates of that time carried no id: they are renewed at once.
all_have_ids() {
    for i in 1 2 3 4; do
        openssl x509 -noout -subject -in "$work/data$i/tls/host.pem" | grep -q "serialNumber" || return 1
    done
}
if command -v openssl >/dev/null; then
    check "all hosts have certificates with their ids" all_have_ids
fi
[ "$failed" = 0 ] || show_logs
exit 0
