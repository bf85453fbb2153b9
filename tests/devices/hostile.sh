#!/bin/sh
# A guest attacks its devices from inside, at full speed: registers, PCI configuration, MSI-X, doorbells and rings. ferry
# survives, a reset heals each device, and a machine beside it notices nothing.
#   hostile.sh [ROUNDS [SEED [CPUS]]]
# needs: kvm
rounds=${1:-3} seed=${2:-1} cpus=${3:-2}
. "$(dirname "$0")/../cli/lib.sh"

tap=ferryh$$
ip=$(ls /usr/sbin/ip /usr/bin/ip 2>/dev/null | head -n 1)
net= peer=
remove_tap() { [ -z "$net" ] || ${ip:-ip} link delete $tap; }
trap 'clean_up; remove_tap' EXIT
if ${ip:-ip} tuntap add dev $tap mode tap 2>/dev/null; then
    net="--net tap=$tap" peer="ip=10.79.0.2 peer=10.79.0.1"
    $ip address add 10.79.0.1/24 dev $tap && $ip link set $tap up
fi

neighbour_requests() {
    ferry stats --format json neighbour | jq '[.devices[] | .queues // [] | .[].requests] | add'
}

truncate -s 16M "$work/own.img" "$work/neighbour.img"
run neighbour "blk mode=loop seed=3" --cpus 1 --disk "$work/neighbour.img" >/dev/null || not_ok "the neighbour starts"
await sh -c 'ferry logs neighbour | grep -q "blk loop requests="'

# shellcheck disable=SC2086 # these are options, or nothing
ferry run hostile --kernel "$GUEST" --memory 64M --cpus "$cpus" --debug-exit --disk "$work/own.img" $net \
    --balloon --vsock "cid=5,socket=$work/vsock" --append "test=hostile rounds=$rounds seed=$seed $peer" </dev/null >"$work/out" 2>&1 &
attacker=$!
await sh -c 'ferry logs hostile | grep -aq "hostile ready"'
check "the attacked machine answers on its control socket" \
    sh -c 'ferry stats --format json hostile | jq -e ".state"; [ "$(ferry ps -a --format json | jq length)" = 2 ]'
wait $attacker
status=$?
if [ $status -eq 1 ] && grep -aq "test=hostile .*result=pass" "$work/out"; then
    ok "each device works after each of $rounds rounds of attacks, and a reset"
else
    not_ok "each device works after each of $rounds rounds of attacks, and a reset" "status $status, seed $seed" \
        "$(grep -a ferry "$work/out" | cut -c1-300 | tail -20)" "$(tail -20 "$FERRY_RUNTIME_DIR/hostile/log")"
fi
check "ferry says what it found wrong, but not without end" \
    sh -c 'grep -q "needs a reset" "$0" && [ "$(wc -l <"$0")" -lt 200 ]' "$FERRY_RUNTIME_DIR/hostile/log"
before=$(neighbour_requests)
neighbour_goes_on() { [ "$(neighbour_requests)" -gt "$before" ]; }
check "the machine beside it goes on" await neighbour_goes_on
check "and has found nothing wrong on its disk" sh -c 'ferry pause neighbour && ! ferry logs neighbour | grep -a "error\|fail"'
[ -n "$net" ] || skip "attacks on a network card" "no right to make a tap"
finish
