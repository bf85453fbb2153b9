#!/bin/sh
# Four hosts of which some are voters: who becomes one by itself, and who by a person's word.
# needs: nothing
. "$(dirname "$0")/lib.sh"
without_machines=yes
. "$(dirname "$0")/hosts.sh"

roles_are() { # the hosts that are voters, as "h1 h3", as host $ask sees it
    [ "$(on "$ask" cluster status --format json 2>/dev/null | jq -r '[.members[] |
        select(.role == "voter" or .role == "leader") | .name] | sort | join(" ")')" = "$1" ]
}
status_says() {
    on "$ask" cluster status >"$work/status" 2>&1
    grep -q "$1" "$work/status"
}
ask=1
mkdir -p "$work/witness"
network_start 4
members=1
host_boot 1 --found
# shellcheck disable=SC2086
wait_until on 1 cluster init $lease_times >/dev/null 2>&1
add_host() {
    token=$(on 1 cluster token)
    members=$1
    host_boot "$1" --join "$token@$(member_address 1)"
    check "host $1 joins" hosts_alive "$1"
}
add_host 2
check "of two hosts one is a voter" status_says "1 voter (h1): its loss stops everything"
check "and the other learns" status_says "h2: learner"
add_host 3
check "of three all are" roles_are "h1 h2 h3"
add_host 4
check "a fourth learns" status_says "h4: learner"
report "it isn't made a voter alone" says "that would make 4 voters" on 1 cluster voter add h4
report "nor is an unknown one" says "there is no host 'h9'" on 1 cluster voter replace h1 h9
report "nor are all dismissed" says "somebody must stay" on 1 cluster voter remove h1 h2 h3

report "a voter is replaced" on 1 cluster voter replace h2 h4
report "in one step" roles_are "h1 h3 h4"
lead=$(on 1 cluster status --format json | jq -r '.members[] | select(.role == "leader") | .name')
report "the leader is replaced" on 1 cluster voter replace "$lead" h2
report "and isn't a voter any more" \
    test "$(on 1 cluster status --format json | jq -r ".members[] | select(.name == \"$lead\") | .role")" = learner

free=${lead#h}
ask=$((free % 4 + 1))
old=$((ask % 4 + 1))
[ "$old" = "$free" ] && old=$((old % 4 + 1))
power_off "$free"
is_dead() {
    [ "$(on "$ask" cluster hosts --format json | jq -r ".hosts[] | select(.name == \"h$free\") | .state")" = dead ]
}
check "a host is lost" is_dead
report "one that is down can't take a place" says "isn't what was asked for yet" \
    on "$ask" cluster voter replace "h$old" "h$free" --timeout 2s
report "and whose place it is to take stays" sh -c \
    "'$ferry' cluster status --runtime-dir '$work/run$ask' | grep -q 'store     3 voters (.*h$old'"
host_boot "$free"
is_replaced() {
    status_says "h$old: learner" && status_says "store     3 voters (.*h$free"
}
check "it takes it when it is back" is_replaced

rest=
for i in 1 2 3 4; do
    [ "$i" = "$old" ] && continue
    [ "$i" = "$ask" ] || rest="$rest h$i"
done
# shellcheck disable=SC2086
report "two are dismissed at once" on "$ask" cluster voter remove $rest
report "one is left" roles_are "h$ask"
# shellcheck disable=SC2086
report "and they are voters again" on "$ask" cluster voter add $rest
check "three of them" status_says "store     3 voters"

report "nobody is replaced by himself" says "can't be replaced by itself" on "$ask" cluster voter replace "h$ask" "h$ask"
report "a host that isn't there can't be removed" says "there is no host 'h9'" on "$ask" cluster remove h9
report "a cluster is restored elsewhere" says "this host belongs to a cluster" on "$ask" cluster restore "$0"
report "a token is good for some time" says "would let nobody in" on "$ask" cluster token --ttl 0s
# shellcheck disable=SC2086
for host in $rest; do
    power_off "${host#h}"
done
no_majority() {
    says "a majority of the voters is down" on "$ask" cluster status
}
check "without a majority it is said what is the matter" no_majority
[ "$failed" = 0 ] || show_logs
exit 0
