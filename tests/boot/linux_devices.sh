#!/bin/sh
# needs: linux
# Stock Linux boots with one and two CPUs, its own drivers find every device, and the devices work: disks keep what is
# written, the network answers, random numbers are random, the virtio console carries both ways.
cd "$(dirname "$0")/../.." || exit 1
. tests/boot/linux_lib.sh

tap=ferry$$
if ! ip tuntap add "$tap" mode tap 2>"$work/tap" || ! ip address add 10.78.0.1/24 dev "$tap" ||
    ! ip link set "$tap" up; then
    echo "ok - stock Linux and its devices # SKIP no tap here: $(tail -n 1 "$work/tap")"
    exit 0
fi

# Each time another console and other sizes.
devices() {
    cpus=$1 console=$2
    guest=linux-$cpus
    truncate -s 64M "$work/large$cpus"
    truncate -s 1536K "$work/small$cpus"
    head -c 65536 /dev/urandom >"$work/fixed$cpus"
    cp "$work/fixed$cpus" "$work/fixed$cpus.before"
    check $guest "$cpus vCPU: starts" linux $guest "console=$console ferry.mode=report ferry.ip=10.78.0.2/24 \
ferry.peer=10.78.0.1 ferry.scratch=vda,vdb ferry.hvc=$([ "$console" = ttyS0 ] && echo echo)" --cpus "$cpus" \
        --disk "$work/large$cpus" --disk "$work/small$cpus" --disk "$work/fixed$cpus,ro" --net tap="$tap" || return
    if [ "$console" = ttyS0 ]; then
        check $guest "$cpus vCPU: the virtio console carries output" wait_line $guest 'hvc0 say something'
        echo "salt and pepper" | ferry console $guest >"$work/console" 2>&1 &
        talker=$!
        check $guest "$cpus vCPU: the virtio console carries input" wait_line $guest 'hvc0 heard salt and pepper$'
    else
        talker=
    fi
    check $guest "$cpus vCPU: powers off by itself" ended $guest
    [ -z "$talker" ] || wait $talker
    check $guest "$cpus vCPU: the report says ok" has $guest '^ferry-guest: report ok$'
    check $guest "$cpus vCPU: all CPUs run" has $guest "^ferry-guest: cpus=$cpus\$"
    check $guest "$cpus vCPU: kvmclock is its clock" has $guest '^ferry-guest: clocksource=kvm-clock$'
    for device in "1af4:1042 block" "1af4:1041 network" "1af4:1043 console" "1af4:1044 entropy"; do
        check $guest "$cpus vCPU: PCI shows the ${device#* } device, with driver and MSI-X" has $guest \
            "^ferry-guest: pci 0000:00:.* id=${device% *} .*driver=virtio-pci msi=[1-9]"
    done
    for driver in "2 virtio_blk" "1 virtio_net" "3 virtio_console" "4 virtio_rng"; do
        check $guest "$cpus vCPU: ${driver#* } drives its device" has $guest \
            "^ferry-guest: virtio virtio[0-9]+ device=${driver% *} driver=${driver#* } "
    done
    check $guest "$cpus vCPU: a disk keeps what is written" has $guest \
        '^ferry-guest: disk vda bytes=67108864 ro=0 verify=ok$'
    check $guest "$cpus vCPU: a small one too" has $guest '^ferry-guest: disk vdb bytes=1572864 ro=0 verify=ok$'
    check $guest "$cpus vCPU: a read-only disk is one" has $guest \
        '^ferry-guest: disk vdc bytes=65536 ro=1 verify=skipped$'
    check $guest "$cpus vCPU: the read-only disk is unchanged" cmp "$work/fixed$cpus" "$work/fixed$cpus.before"
    # Three pieces of 256 KiB each are random, the rest is as it was.
    check $guest "$cpus vCPU: what the guest wrote is in the image" written "$work/large$cpus"
    check $guest "$cpus vCPU: the network answers" has $guest '^ferry-guest: net eth0 .* ping=5$'
    check $guest "$cpus vCPU: random numbers come" has $guest '^ferry-guest: hwrng name=virtio_rng.0 bytes=256 '
}

# Not a single piece of zeros where the guest wrote, and nothing but zeros elsewhere.
written() {
    for offset in 0 510 1020; do
        dd if="$1" bs=65536 skip=$offset count=4 2>/dev/null | tr -d '\0' | wc -c >"$work/count"
        [ "$(cat "$work/count")" -gt 250000 ] || { reason="block $offset holds zeros" && return 1; }
    done
    [ "$(tr -d '\0' <"$1" | wc -c)" -le $((3 * 262144)) ] || { reason="more was written than asked" && return 1; }
}

devices 1 ttyS0
devices 2 hvc0
exit $failed
