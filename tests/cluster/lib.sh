# Real members for tests: one network namespace each, joined by a bridge in a namespace of its own.
# Sourced by test_*.sh. Needs root and network namespaces, or every test says SKIP.
#
#   cluster_start N          founds with member 1, the others join
#   member_start I, member_kill I, member_pid I, member_ferry I ...
#   cut A B                  A no longer hears B (one way); heal: all hear all
#   proxy_start N            members talk through a proxy (proxy.c) from now on; rules FROM TO ... as there
#   leader                   the number of the leading member, once there is one

root=$(cd "$(dirname "$0")/../.." && pwd)
build=${FERRY_BUILD:-$root/build}
ferry=$build/ferry
ferryd=${FERRYD:-$build/ferryd}
work=$(mktemp -d /tmp/ferry-cluster.XXXXXX)
net=fc$$
members=0
history_pid=
proxy_pid=
failed=0 # 1 once a report was not ok

cleanup() {
    trap - EXIT INT TERM
    [ -n "$history_pid" ] && kill "$history_pid" 2>/dev/null
    [ -n "$proxy_pid" ] && kill "$proxy_pid" 2>/dev/null
    i=1
    while [ "$i" -le "$members" ]; do
        kill -CONT "$(member_pid "$i")" 2>/dev/null
        kill -KILL "$(member_pid "$i")" 2>/dev/null
        mountpoint -q "$work/data$i" && umount "$work/data$i"
        ip netns del "$net-$i" 2>/dev/null
        i=$((i + 1))
    done
    ip netns del "$net-hub" 2>/dev/null
    [ -n "$KEEP" ] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

skip_all() {
    echo "ok - members in network namespaces # SKIP $1"
    exit 0
}

if ! ip netns add "$net-hub" 2>/dev/null; then
    skip_all "no right to make network namespaces"
fi

hub() {
    ip netns exec "$net-hub" "$@"
}

network_start() {
    hub ip link set lo up
    hub ip link add br0 type bridge
    hub ip link set br0 up
    hub ip addr add 10.77.0.254/24 dev br0
    i=1
    while [ "$i" -le "$1" ]; do
        network_add "$i"
        i=$((i + 1))
    done
}

network_add() {
    ip netns add "$net-$1"
    hub ip link add "m$1" type veth peer name eth0 netns "$net-$1"
    hub ip link set "m$1" master br0 up
    ip netns exec "$net-$1" ip link set lo up
    ip netns exec "$net-$1" ip addr add "10.77.0.$1/24" dev eth0
    ip netns exec "$net-$1" ip link set eth0 up
    ip netns exec "$net-$1" nft -f - <<EOF
table inet cut {
    chain in {
        type filter hook input priority 0;
    }
}
EOF
}

member_address() {
    echo "10.77.0.$1:7001"
}

addresses() {
    i=1
    list=
    while [ "$i" -le "$members" ]; do
        list=$list${list:+,}$(member_address "$i")
        i=$((i + 1))
    done
    echo "$list"
}

# Starts member $1; further arguments go to ferryd.
member_start() {
    one=$1
    shift
    [ -n "$proxy_pid" ] && set -- --advertise-peer "10.77.0.254:$((7100 + one))" "$@"
    FERRY_TEST_DISK=$work/disk$one ip netns exec "$net-$one" "$ferryd" --store-only \
        --data "$work/data$one" --name "m$one" --listen-peer "10.77.0.$one:7000" \
        --listen-client "$(member_address "$one")" --insecure --heartbeat 50ms \
        --election 250ms-500ms --snapshot-entries 300 --segment 8M "$@" >>"$work/log$one" 2>&1 &
    echo $! >"$work/pid$one"
}

proxy_start() {
    : >"$work/rules"
    ip netns exec "$net-hub" "$build/tests/cluster/proxy" "$work/rules" 10.77.0.254 7100 "$1" 10.77.0. 7000 \
        >"$work/proxy" 2>&1 &
    proxy_pid=$!
    wait_until grep -q ready "$work/proxy"
}

# Replaces all rules: each argument is one.
rules() {
    printf '%s\n' "$@" >"$work/rules.new"
    mv "$work/rules.new" "$work/rules"
}

member_pid() {
    cat "$work/pid$1"
}

member_kill() {
    kill -KILL "$(member_pid "$1")" 2>/dev/null
    wait "$(member_pid "$1")" 2>/dev/null
}

store() {
    hub "$ferry" store "$@" --store "$(addresses)" --timeout "${timeout:-5s}"
}

# Until the command succeeds; a minute.
wait_until() {
    deadline=$(($(date +%s) + 60))
    until "$@"; do
        [ "$(date +%s)" -gt "$deadline" ] && return 1
        sleep 0.2
    done
}

voters_are() {
    [ "$(store members --format json 2>/dev/null |
        jq '[.members[] | select(.role == "voter" or .role == "leader")] | length')" = "$1" ]
}

cluster_start() {
    network_start "$1"
    cluster_found "$1"
}

# In a network that is there.
cluster_found() {
    members=1
    member_start 1 --found
    wait_until store put ready yes >/dev/null || return 1
    while [ "$members" -lt "$1" ]; do
        cluster_join $((members + 1)) || return 1
    done
    wait_until voters_are "$1"
}

cluster_join() {
    token=$(store members token) || return 1
    where=$(addresses)
    [ "$1" -gt "$members" ] && members=$1
    member_start "$1" --join "$token@$where"
}

leader() {
    name=
    tries=0
    while [ -z "$name" ] && [ "$tries" -lt 100 ]; do
        name=$(store members --format json 2>/dev/null |
            jq -r '.members[] | select(.role == "leader") | .name' | sed 's/^m//')
        tries=$((tries + 1))
    done
    echo "$name"
}

# Another member than the leader.
follower() {
    lead=$(leader)
    echo $((lead % members + 1))
}

cut() {
    ip netns exec "$net-$1" nft add rule inet cut in ip saddr "10.77.0.$2" drop
}

lose() { # of what member $1 hears from other members, $2 percent
    ip netns exec "$net-$1" nft add rule inet cut in ip saddr 10.77.0.0/28 \
        numgen random mod 100 \< "$2" drop
}

heal() {
    i=1
    while [ "$i" -le "$members" ]; do
        ip netns exec "$net-$i" nft flush chain inet cut in
        i=$((i + 1))
    done
}

# Cuts member $1 from all other members, both ways; clients still reach it.
isolate() {
    i=1
    while [ "$i" -le "$members" ]; do
        if [ "$i" != "$1" ]; then
            cut "$1" "$i"
            cut "$i" "$1"
        fi
        i=$((i + 1))
    done
}

# Clients at work in the background for $1 seconds; history_end gives their verdict.
history_start() {
    # Not by hub: in the background that is a shell more, and the process to kill its child.
    ip netns exec "$net-hub" "$build/tests/cluster/history" "$(addresses)" "$1" 6 "${2:-1}" >"$work/history" 2>&1 &
    history_pid=$!
}

history_end() {
    wait "$history_pid"
    history_pid=
    sed "s/^\(ok\|not ok\) - /&$1: /" "$work/history"
    if grep -q "^not ok" "$work/history"; then
        i=1
        while [ "$i" -le "$members" ]; do
            tail -n 15 "$work/log$i" | sed "s/^/# m$i: /"
            i=$((i + 1))
        done
    fi
}

report() { # report NAME COMMAND...
    what=$1
    shift
    if "$@"; then
        echo "ok - $what"
    else
        echo "not ok - $what"
        failed=1
    fi
}

check() { # check NAME COMMAND...: that it comes to be so
    what=$1
    shift
    report "$what" wait_until "$@"
}

says() { # WORDS COMMAND...: it fails, with these words on standard error
    words=$1
    shift
    "$@" >/dev/null 2>"$work/said" && return 1
    grep -q "$words" "$work/said" || { sed 's/^/# /' "$work/said" && return 1; }
}
