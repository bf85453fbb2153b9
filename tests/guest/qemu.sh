# How tests/guest/cases boots a guest under QEMU's TCG. Both of the image's headers and three machines are tried; QEMU
# prefers the multiboot header, so the image without it is for PVH.

: "${MACHINE:=q35}" "${IMAGE:=build/guest/testguest-pvh.elf}"

# guest 'COMMAND LINE' [WHAT...]
guest() {
    append=$1
    shift
    debug_exit="-device isa-debug-exit,iobase=0xf4" reboot=-no-reboot devices=
    for what in "$@"; do
        case $what in
        no-debug-exit) debug_exit= ;;
        reboots) reboot= ;;
        disk) devices="$devices -drive file=$work/disk,if=none,id=d,format=raw -device virtio-blk-pci,drive=d,disable-legacy=on" ;;
        rng) devices="$devices -device virtio-rng-pci,disable-legacy=on" ;;
        *) devices="$devices $what" ;;
        esac
    done
    # The words of these variables are arguments, so they stand without quotes.
    # shellcheck disable=SC2086
    timeout 100 qemu-system-x86_64 -accel tcg -cpu max -M "$MACHINE" -m "${MEMORY:-128M}" -smp "${CPUS:-1}" \
        -kernel "$IMAGE" -append "$append" -display none -serial "${SERIAL:-stdio}" -monitor "${MONITOR:-none}" \
        $reboot -net none $debug_exit $devices
}

# wait_for PATTERN FILE: until the file has such a line, a minute at most.
wait_for() {
    tries=600
    until grep -Eq "$1" "$2" 2>/dev/null; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

more_cases() {
    for image in testguest testguest-pvh; do
        for machine in microvm,x-option-roms=off q35 pc; do
            protocol=multiboot
            [ $image = testguest ] || protocol=pvh
            MACHINE=$machine IMAGE=build/guest/$image.elf CPUS=2 \
                expect "$protocol on $machine" "test=hello boot=$protocol cpus=2 .*result=pass" 1 "test=hello"
        done
    done
    MACHINE=microvm,x-option-roms=off expect "power-off of a hardware-reduced machine" "test=hello .*result=pass" 0 \
        "test=hello exit=s5" no-debug-exit
    MACHINE=microvm,x-option-roms=off,pcie=on expect "BARs that nobody placed" "test=blk .*result=pass" 1 "test=blk" disk
    MACHINE=pc expect "PCI without ECAM" "test=blk .*result=pass" 1 "test=blk" disk
    MEMORY=5G CPUS=2 expect "pattern above 4 GiB" "test=pattern .*result=pass" 1 \
        "test=pattern gpa=0x100000000 size=16M seconds=1"
    CPUS=64 expect "64 vCPUs" "test=hello .*cpus=64 .*result=pass" 1 "test=hello"

    printf 'hello world\nquit\n' >"$work/in"
    input_case
    power_case
    pattern_case
    net_case
    console_case
}

input_case() {
    mkfifo "$work/keys"
    guest "test=input" <"$work/keys" >"$work/out" 2>&1 &
    child=$!
    exec 3>"$work/keys"
    wait_for "input ready" "$work/out" && cat "$work/in" >&3
    wait $child
    exec 3>&-
    grep -q 'input length=11 line="hello world"' "$work/out" && grep -q "test=input lines=2 result=pass" "$work/out"
    report "serial input" $?
}

power_case() {
    : >"$work/out"
    mkfifo "$work/commands"
    SERIAL=file:$work/out MONITOR=stdio guest "test=power presses=2 exit=s5" no-debug-exit <"$work/commands" \
        >/dev/null 2>&1 &
    child=$!
    exec 3>"$work/commands"
    wait_for "power ready" "$work/out" && echo system_powerdown >&3
    wait_for "power presses=1" "$work/out" && echo system_powerdown >&3
    wait $child
    status=$?
    exec 3>&-
    [ $status -eq 0 ] && grep -q "test=power presses=2 result=pass" "$work/out"
    report "power button" $?
}

# The pattern as a check from outside sees it: the machine stopped at any time, one edge at most.
pattern_case() {
    : >"$work/out"
    SERIAL=file:$work/out MONITOR=stdio CPUS=2 guest "test=pattern size=8M check=0" <"$work/commands" >/dev/null 2>&1 &
    child=$!
    exec 3>"$work/commands"
    wait_for "pattern passes=" "$work/out"
    sed -n 's/.*pattern ready gpa=\(0x[0-9a-f]*\) .*/\1/p' "$work/out" >"$work/gpa"
    echo stop >&3
    echo "pmemsave $(cat "$work/gpa") 0x800000 \"$work/memory\"" >&3
    echo quit >&3
    wait $child
    exec 3>&-
    tests/guest/pattern_check.py "$work/memory" "$work/out" >>"$work/out" 2>&1
    report "pattern seen from outside" $?
}

net_case() {
    port=$((20000 + $$ % 20000))
    card="-device virtio-net-pci,disable-legacy=on,netdev=n,mac=52:54:00:00:00"
    guest "test=net ip=10.9.9.1 seconds=60" "-netdev socket,id=n,listen=127.0.0.1:$port $card:01" \
        "-pidfile $work/pid" >"$work/echo" 2>&1 &
    child=$!
    wait_for "net ready" "$work/echo"
    expect "net round trips (UDP)" "test=net mode=rtt .*result=pass" 1 \
        "test=net mode=rtt ip=10.9.9.2 peer=10.9.9.1 seconds=1 lost=2" \
        "-netdev socket,id=n,connect=127.0.0.1:$port $card:02"
    kill "$(cat "$work/pid")"
    wait $child 2>/dev/null
    expect "net round trips (ICMP)" "test=net mode=rtt .*result=pass" 1 \
        "test=net mode=rtt proto=icmp seconds=1 lost=2" "-netdev user,id=n $card:03"
}

console_case() {
    mkfifo "$work/lines.in" "$work/lines.out"
    guest "test=console" "-device virtio-serial-pci,max_ports=1 -chardev pipe,id=c,path=$work/lines \
        -device virtconsole,chardev=c" >"$work/out" 2>&1 &
    child=$!
    exec 3<>"$work/lines.in" 4<>"$work/lines.out"
    wait_for "console ready" "$work/out" && cat "$work/in" >&3
    IFS= read -r first <&4 && IFS= read -r second <&4
    wait $child
    exec 3>&- 4>&-
    [ "$first" = "hello world" ] && [ "$second" = quit ] && grep -q "test=console .*result=pass" "$work/out"
    report "virtio-console echo" $?
}
