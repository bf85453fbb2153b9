#!/bin/sh
# The console and the logs of a machine on another host, from a host and from a machine that is none.
# needs: kvm
. "$(dirname "$0")/lib.sh"
security=
. "$(dirname "$0")/hosts.sh"

mkdir -p "$work/witness"
network_start 2
members=2
host_boot 1 --found
# shellcheck disable=SC2086
wait_until on 1 cluster init $lease_times >/dev/null 2>&1
host_boot 2 --join "$(on 1 cluster token)@$(member_address 1)"
check "two hosts form a cluster" hosts_alive 2
uuid=$(on 1 vm create web --kernel "$guest" --append "test=idle" --memory 64M --host h2 --wait)
on 1 vm create other --kernel "$guest" --memory 64M --stopped >/dev/null
on 1 cluster client-certificate alice --out "$work/alice" >/dev/null
on 1 cluster client-certificate bob --out "$work/bob" --read-only >/dev/null
far() { # CLIENT COMMAND...
    client=$1
    shift
    FERRY_CLUSTER=$work/$client hub "$ferry" "$@"
}
logged() {
    on 1 vm logs web | grep -q "beat="
}
check "logs come from the host that has the machine" logged
report "ferry's own too" sh -c "'$ferry' vm logs web --vmm --runtime-dir '$work/run1' | grep -q ."
far_log() { # CLIENT
    far "$1" vm logs web | grep -q "beat="
}
report "also to a client that is no host" far_log alice
report "and to one that may only look" far_log bob
report "which gets no console" says "for no console" far bob vm console web
on 1 vm console web </dev/null >"$work/console1" 2>&1 &
from_host=$!
far alice vm console web </dev/null >"$work/console2" 2>&1 &
from_afar=$!
far alice vm logs web --follow >"$work/followed" 2>&1 &
follower=$!
said() { # FILE
    grep -q "beat=" "$work/$1"
}
check "a console is reached from another host" said console1
check "and from elsewhere" said console2
check "a log is followed" said followed
report "a machine that is nowhere has none" says "is on no host" on 1 vm console other
report "a stream that isn't one is refused" sh -c "echo '{}' | ip netns exec '$net-hub' \
    '$(dirname "$0")/tls_lines.py' '$(member_address 2)' ferry-stream/1 '$work/alice' | grep -q invalid-request"
strange() { # WHAT
    echo "{\"machine\":\"$1\",\"what\":\"log\"}" |
        hub "$(dirname "$0")/tls_lines.py" "$(member_address 2)" ferry-stream/1 "$work/alice" | grep -q "$2"
}
report "so is one of another machine" strange 00000000-0000-4000-8000-000000000000 "isn't on this host"
report "or of a path" strange ../../etc invalid-request
check "the host's log says who looks" grep -q "client 'alice' at .*: console of $uuid" "$work/log2"
on 2 cluster client-revoke alice >/dev/null
report "a client whose certificate is taken back is cut off" wait "$from_afar"
report "also from a log" wait "$follower"
on 1 vm stop web --wait >/dev/null
wait "$from_host"
report "a console ends with its machine" test "$?" = 0
on 1 vm delete web other --wait >/dev/null
report "no machine ran twice" witnesses
# What ferryd started to read logs has ended with them.
no_readers() {
    ! pgrep -f "ferry logs $uuid" >/dev/null
}
check "nothing is left of the logs" no_readers
[ "$failed" = 0 ] || { sed 's/^/# /' "$work/witnesses"; show_logs; }
exit 0
