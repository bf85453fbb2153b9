#!/bin/sh
# Client hosts: no log, no store, machines like on others. They move between two of them, survive the member
# that their host talks to, stop when their host is cut off, and what such a host may not do is refused.
# needs: kvm
. "$(dirname "$0")/lib.sh"
security=
. "$(dirname "$0")/hosts.sh"
lease_times="--lease 5s --deadline 3800ms --stop 500ms --renew 400ms"

mkdir -p "$work/witness"
network_start 5
members=1
host_boot 1 --found
# shellcheck disable=SC2086
wait_until on 1 cluster init $lease_times >/dev/null 2>&1
quiet() {
    "$@" >/dev/null
}
join() { # HOST ROLE [ASKED]
    members=$1
    host_boot "$1" --join "$(on 1 cluster token)@$(member_address "${3:-1}")" --role "$2"
    check "host $1 joins as $2" hosts_alive "$1"
}
join 2 member
join 3 auto
join 4 client 2
members=5
host_boot 5
check "a host waits" grep -qs "waiting for" "$work/log5"
token=$(on 1 cluster token)
report "there is no other role than those that are" says "'server' is no role" \
    on 5 cluster join "$token@$(member_address 4)" --role server
false_name() {
    ip netns exec "$net-5" timeout 30 "$ferryd" --data "$work/false" --name h1 --runtime-dir "$work/false-run" \
        --listen-client 10.77.0.5:7002 --join "$token@$(member_address 1)"
}
report "nobody becomes a client host under the name of another host" says "another host has that name" false_name
# By the address of a client host, which says where the store is.
report "it joins as a client" quiet on 5 cluster join "$token@$(member_address 4)" --role client
check "and is there" hosts_alive 5

role() { # HOST [ASKED]
    on "${2:-1}" cluster hosts --format json | jq -r ".hosts[] | select(.name == \"h$1\") | .role"
}
report "they are client hosts" test "$(role 4) $(role 5 4)" = "client client"
three_voters() {
    on 4 cluster status >"$work/status" 2>&1 && grep -q "3 voters (h.*): 1 may fail" "$work/status" &&
        grep -q "2 client hosts" "$work/status"
}
check "three others are voters, as a client host's status says" three_voters
nothing_stored() {
    [ ! -e "$work/data4/tls/ca.key" ] && ! ls "$work/data4" | grep -q '^wal-'
}
report "a client host has no log and no CA's key" nothing_stored

if [ "$failed" != 0 ]; then
    show_logs
    exit 1
fi

# Machines.
create() { # NAME ASKED
    on "$2" vm create "$1" --kernel "$guest" --append "test=idle" --memory 64M --restart always >"$work/said" 2>&1 ||
        { sed 's/^/# /' "$work/said"; return 1; }
    wait_until machine_is "$1" running "$2"
}
moves() { # NAME TO
    [ "$(machine_field "$1" host "$2")" = "h$2" ] && return 0
    on "$2" vm migrate "$1" --to "h$2" --wait >"$work/said" 2>&1 || { sed 's/^/# /' "$work/said"; return 1; }
    machine_is "$1" running "$2" && [ "$(machine_field "$1" host "$2")" = "h$2" ]
}
report "a machine is made on a client host" create one 4
check "it runs on one" moves one 5
check "moves to another" moves one 4
check "to a member" moves one 1
check "and back" moves one 4
console_says() { # by the ferryd of a host that hasn't it
    on "$1" vm logs one 2>/dev/null | grep -q beat=
}
check "another client host shows its log" console_says 5
check "a member too" console_says 2

# The leader is lost, with which client hosts speak.
lead=$(on 1 cluster status --format json | jq -r '.members[] | select(.role == "leader") | .name' | tr -d h)
starts() { # of the first machine, on all hosts
    cat "$work"/log[1-5] | grep -c "machine one .*: starting"
}
before=$(starts)
power_off "$lead"
state_of() { # HOST ASKED
    on "$2" cluster hosts --format json 2>/dev/null | jq -r ".hosts[] | select(.name == \"h$1\") | .state"
}
goes_on() {
    [ "$(state_of "$lead" 4)" = dead ] && machine_is one running 4
}
check "the member that leads is lost, which a client host sees" goes_on
as_before() {
    [ "$(starts) $(machine_field one host 4)" = "$before h4" ]
}
report "its machine goes on, and isn't started anew" as_before
report "and others are made there" create two 4
check "on one or another" moves two 5
host_boot "$lead"
check "the member comes back" hosts_alive_at 4 5

# A ferryd that is started again remembers whom to ask.
ferryd_kill 4
ferryd_start 4
runs_again() {
    machine_is one running 4
}
check "a client host's ferryd that was killed finds its machine" runs_again
report "which wasn't started anew" as_before

# What a client host may not do, in spite of its certificate.
host4() {
    hub "$ferry" store "$@" --store "$(addresses)" --timeout 5s --tls-cert "$work/data4/tls/host.pem" \
        --tls-key "$work/data4/tls/host.key" --tls-ca "$work/data4/tls/ca.pem"
}
report "it reads the records" quiet host4 get ferry/settings
report "and no others" says "not allowed" host4 get secret
report "not all keys" says "not allowed" host4 get --prefix ""
report "it changes no settings" says "not allowed" host4 put ferry/settings x
report "and no other host's lease" says "not allowed" host4 del ferry/renewals/h1
report "it gets no token" says "not allowed" host4 members token
report "has no snapshot" says "not allowed\|isn't that of a host" host4 snapshot "$work/snapshot"
report "removes no member" says "not allowed" host4 members remove h1
said_where() {
    says "is a client host: do this on a host that is a member" on 4 cluster "$@"
}
report "what members do is refused there" said_where token
report "or from where the store lets it" says "a client host's, which may not do this" on 4 cluster backup "$work/saved"
report "also to drain others" said_where drain h1
report "itself it may drain" quiet on 4 cluster drain h4
drained() {
    machine_is one running 4 && [ "$(machine_field one host 4)" != h4 ]
}
check "then its machine leaves" drained
quiet on 4 cluster undrain h4
report "it can't be made a voter, and how it could be is said" says "has no log: drain it" on 1 cluster voter add h4
lines() { # what who has its certificate is told at a member's port for clients
    cp "$work/data4/tls/host.pem" "$work/data4/tls/cert.pem"
    cp "$work/data4/tls/host.key" "$work/data4/tls/key.pem"
    hub "$(dirname "$0")/tls_lines.py" "$(member_address 1)" ferry-control/1 "$work/data4/tls" --lines 1 </dev/null
}
no_lines() {
    lines | grep -q '"refused".*asks the store alone'
}
report "it is no client of the client protocol" no_lines

# Cut off, its machine stops, and runs elsewhere.
check "the machine is on a client host again" moves one 4
isolate 4
elsewhere() {
    machine_runs_off one h4 1
}
check "a client host is cut off: its machine runs elsewhere" elsewhere
heal
check "it comes back" hosts_alive_at 4 5

# Removed, it stops, and its certificate is worth nothing.
report "its machines leave it" quiet on 4 cluster drain h4 --wait
cp -r "$work/data4/tls" "$work/stolen"
power_off 4
removed() {
    on 1 cluster remove h4 2>/dev/null
}
check "a client host is removed" removed
worthless() {
    says "not allowed" hub "$ferry" store get ferry/settings --store "$(addresses)" --timeout 5s --tls-cert \
        "$work/stolen/host.pem" --tls-key "$work/stolen/host.key" --tls-ca "$work/stolen/ca.pem"
}
report "then its certificate is worth nothing" worthless
host_boot 4
says_removed() {
    grep -q "this host was removed from the cluster" "$work/log4"
}
check "its ferryd says that it was removed, and ends" says_removed
turned_away() { # a client host's own port
    cp "$work/stolen/host.pem" "$work/stolen/cert.pem"
    cp "$work/stolen/host.key" "$work/stolen/key.pem"
    hub "$(dirname "$0")/tls_lines.py" "$(member_address 5)" ferry-stream/1 "$work/stolen" --lines 1 </dev/null |
        grep -q "its host was removed"
}
check "other client hosts turn it away as well" turned_away
report "no machine ran twice" witnesses
[ "$failed" = 0 ] || show_logs
exit 0
