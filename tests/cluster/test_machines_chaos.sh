#!/bin/sh
# test_machines_chaos.sh [ROUNDS [SEED]]: machines with and without disks on three hosts, some on the move, while what
# the seed says goes wrong, one thing after another and some at once. In the end all must run, and witness
# files say whether any ran twice or had two writers to its disk.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

rounds=${1:-8}
seed=${2:-$(date +%s)}
echo "# seed $seed"

random() { # random N: 0 to N - 1, in $drawn
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    drawn=$((seed / 65536 % $1))
}

if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi
for i in 1 2; do
    truncate -s 8M "$work/disk$i.img"
    on 1 vm create "disk$i" --kernel "$guest" --append "test=blk mode=loop seconds=0" --memory 64M \
        --disk "$work/disk$i.img" --restart always >/dev/null
    on 1 vm create "idle$i" --kernel "$guest" --append "test=idle" --memory 64M \
        --restart always >/dev/null
done
all_run() {
    on "${1:-1}" vm ls --format json 2>/dev/null |
        jq -e '.machines | length == 4 and all(.state == "running")' >/dev/null
}
report "four machines run" wait_until all_run 1

pids_on() { # of the machines of host $1, as seen from outside
    pgrep -f -- "--runtime-dir $work/run$1 --lease"
}

later() { # later SECONDS-TENTHS COMMAND...
    tenths=$1
    shift
    (
        sleep "$((tenths / 10)).$((tenths % 10))"
        "$@"
    ) &
    healers="$healers $!"
}

heal_one() {
    ip netns exec "$net-$1" nft flush chain inet cut in
}

machine_process() { # signal, a process of host $2
    for pid in $(pids_on "$2"); do
        random 2
        [ "$drawn" = 0 ] && kill "-$1" "$pid" 2>/dev/null
    done
}

continue_processes() {
    for pid in $(pids_on "$1"); do
        kill -CONT "$pid" 2>/dev/null
    done
}

one_fault() {
    random 3
    victim=$((drawn + 1))
    random 60
    long=$((drawn + 2))
    random 8
    echo "# $drawn to h$victim for $long tenths"
    case $drawn in
    0)
        ferryd_kill "$victim"
        later "$long" ferryd_start "$victim"
        ;;
    1)
        ferryd_stop "$victim"
        later "$long" ferryd_continue "$victim"
        ;;
    2)
        power_off "$victim"
        later "$long" host_boot "$victim"
        ;;
    3)
        isolate "$victim"
        later "$long" heal
        ;;
    4) # hears nobody
        for i in 1 2 3; do
            [ "$i" != "$victim" ] && cut "$victim" "$i"
        done
        later "$long" heal_one "$victim"
        ;;
    5) # is heard by nobody
        for i in 1 2 3; do
            [ "$i" != "$victim" ] && cut "$i" "$victim"
        done
        later "$long" heal
        ;;
    6)
        machine_process KILL "$victim"
        ;;
    7)
        machine_process STOP "$victim"
        later "$long" continue_processes "$victim"
        ;;
    esac
}

round=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    healers=
    # Something is on the move when it happens.
    random 2
    machine=$((drawn + 1))
    random 3
    on "$((drawn + 1))" vm migrate "disk$machine" --to "h$(((drawn + 1) % 3 + 1))" >/dev/null 2>&1
    random 5
    sleep "0.$drawn"
    one_fault 2>/dev/null
    random 20
    sleep "$((drawn / 10)).$((drawn % 10))"
    for healer in $healers; do
        wait "$healer"
    done
done
heal
for i in 1 2 3; do
    continue_processes "$i"
done
report "all machines run in the end" wait_until all_run 1
if witnesses; then
    echo "ok - no machine ran twice, no disk had two writers"
else
    echo "not ok - no machine ran twice, no disk had two writers"
    sed 's/^/# /' "$work/witnesses"
fi
grep -h "starts" "$work/witnesses" | sed 's/^/# /'
all_run 1 || { on 1 vm ls | sed 's/^/# /'; show_logs; }
exit 0
