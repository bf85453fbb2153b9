# How tests/guest/cases boots a guest under ferry, on this host's /dev/kvm (in the lab, usually). Without one all is skipped.

if ! [ -w /dev/kvm ]; then
    echo "1..0 # SKIP no /dev/kvm to write to"
    echo "ok 1 - guest under ferry # SKIP no /dev/kvm to write to"
    exit 0
fi
: "${IMAGE:=build/guest/testguest.elf}"
ferry=build/ferry
machines=0

# guest 'COMMAND LINE' [WHAT...]; the machine's name is g1, g2, ... A guest that doesn't end in time is killed.
guest() {
    append=$1
    shift
    debug_exit=--debug-exit options=
    for what in "$@"; do
        case $what in
        no-debug-exit) debug_exit= ;;
        reboots | rng) ;;
        disk) options="$options --disk $work/disk" ;;
        *) options="$options $what" ;;
        esac
    done
    machines=$((machines + 1))
    # The words of these variables are arguments, so they stand without quotes.
    # shellcheck disable=SC2086
    timeout -s KILL 180 $ferry run "${NAME:-g$machines}" --kernel "$IMAGE" --memory "${MEMORY:-128M}" \
        --cpus "${CPUS:-1}" --append "$append" $debug_exit $options
}

# wait_for PATTERN FILE: until the file has such a line, three minutes at most.
wait_for() {
    tries=180
    until grep -Eq "$1" "$2" 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 1
    done
}

more_cases() {
    IMAGE=build/guest/testguest-pvh.elf expect "the image without multiboot header" "boot=pvh .*result=pass" 1 "test=hello"
    CPUS=64 expect "64 vCPUs" "test=hello .*cpus=64 .*result=pass" 1 "test=hello"
    for mode in triple jump state page-table emulation; do
        expect "crash report: $mode" "rip|RIP" 4 "test=crash mode=$mode"
    done
    # A KVM that emulates ring 0 gives up on it at any CPL; others leave it to the guest.
    if $ferry doctor --format json 2>/dev/null | jq -e '.ring0_native == false' >/dev/null; then
        expect "an instruction that KVM can't emulate, at CPL 3" "rip|RIP" 4 "test=crash mode=user-emulation"
    else
        expect "an instruction that KVM can't emulate, at CPL 3" "exception vector=6 " 3 "test=crash mode=user-emulation"
    fi
    expect "virtio-console carries the output" "test=hello .*result=pass" 1 "test=hello out=virtio"
    input_case
    power_case
    net_case
}

input_case() {
    mkfifo "$work/keys"
    guest "test=input" <"$work/keys" >"$work/out" 2>&1 &
    child=$!
    exec 3>"$work/keys"
    wait_for "input ready" "$work/out" && printf 'hello world\nquit\n' >&3
    wait $child
    exec 3>&-
    grep -q 'input length=11 line="hello world"' "$work/out" && grep -q "test=input lines=2 result=pass" "$work/out"
    report "serial input" $?
}

power_case() {
    NAME=button guest "test=power exit=s5" no-debug-exit >"$work/out" 2>&1 </dev/null &
    child=$!
    wait_for "power ready" "$work/out" && $ferry stop --timeout 2m button >>"$work/out" 2>&1
    wait $child
    status=$?
    [ $status -eq 0 ] && grep -q "test=power presses=1 result=pass" "$work/out"
    report "power button by ferry stop" $?
}

# The host is the other end of a tap: its kernel answers the guest's pings, and the guest answers the host's.
net_case() {
    # By its path: a busybox shell would take its own ip, which makes no taps.
    ip=$(ls /usr/sbin/ip /usr/bin/ip 2>/dev/null | head -n 1)
    if ! ${ip:-ip} tuntap add dev ferryguest0 mode tap 2>/dev/null; then
        number=$((number + 1))
        echo "ok $number - net # SKIP no right to make a tap"
        return
    fi
    $ip address add 10.9.9.1/24 dev ferryguest0
    $ip link set ferryguest0 up
    expect "net round trips" "test=net mode=rtt .*result=pass" 1 \
        "test=net mode=rtt proto=icmp ip=10.9.9.2 peer=10.9.9.1 seconds=1 lost=2" "--net tap=ferryguest0"
    NAME=echo guest "test=net ip=10.9.9.2" "--net tap=ferryguest0" >"$work/out" 2>&1 </dev/null &
    child=$!
    wait_for "net ready" "$work/out" && ping -c 3 -W 20 10.9.9.2 >>"$work/out" 2>&1
    report "the host pings the guest" $?
    $ferry kill echo >/dev/null 2>&1
    wait $child 2>/dev/null
    $ip link delete ferryguest0
}
