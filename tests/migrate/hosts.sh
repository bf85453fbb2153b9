# Two hosts with a network of their own each, and a switch between them, for tests of what a move does to the network.
# Source it after lib.sh; then hosts_start.
#
#     host a: br0 (10.9.0.11) with tap0 -- switch: br0 (10.9.0.1) -- host b: br0 (10.9.0.12) with tap0
#
# `ferry` runs in the host whose runtime directory is set (`at`), `on HOST COMMAND` there, `on s` at the switch.
hosts_can() { unshare -n ip link add name br0 type bridge 2>/dev/null && command -v nsenter >/dev/null; }

on() {
    eval "on_pid=\$host_$1"
    shift
    nsenter -t "$on_pid" -n "$@"
}
ferry() {
    case $FERRY_RUNTIME_DIR in
    */a) on a ferry "$@" ;;
    */b) on b ferry "$@" ;;
    *) command ferry "$@" ;;
    esac
}

has_own_network() { [ "$(readlink "/proc/$1/ns/net")" != "$(readlink /proc/self/ns/net)" ]; }
# A namespace that lives as long as its process.
new_host() {
    unshare -n sleep 100000 >/dev/null 2>&1 &
    eval "host_$1=$!"
    echo $! >>"$work/receivers"
    await has_own_network "$!" || return # before that it is in the one of this script
    on "$1" ip link set lo up
    # Without these a bridge takes time to forward, and says things of its own.
    on "$1" ip link add br0 type bridge forward_delay 0 mcast_snooping 0
    on "$1" ip link set br0 up
}
# cable HOST: from the switch to it.
cable() {
    eval "cable_pid=\$host_$1"
    on s ip link add "to$1" type veth peer name eth0 netns "$cable_pid"
    on s ip link set "to$1" master br0 up
    on "$1" ip link set eth0 master br0 up
    on "$1" ip tuntap add tap0 mode tap
    on "$1" ip link set tap0 master br0 up
    on "$1" ip address add "$2/24" dev br0
}
hosts_start() {
    for host in s a b; do new_host $host; done
    on s ip address add 10.9.0.1/24 dev br0
    cable a 10.9.0.11
    cable b 10.9.0.12
}
# receive_at HOST [OPTION]...
receive_at() {
    case $1 in
    a) receive_address=10.9.0.11 ;;
    b) receive_address=10.9.0.12 ;;
    esac
    receive "$@" --insecure
}
