#!/bin/sh
# soak.sh MOVES [SCHEME]...: that many moves back and forth, in turns of 1, 2, 4 and 8 vCPUs, several amounts of memory,
# plain and by TLS, each over 1 to 16 connections. It says how many were made, and how many failed.
. "$(dirname "$0")/lib.sh"
left=${1:-4000}
[ $# -gt 0 ] && shift
schemes=${*:-tcp tls}
turn=0
stream_counts="1 2 4 8 16 3" check_every=4
make_ca ca
make_certificate hosta ca
make_certificate hostb ca
while [ "$left" -gt 0 ]; do
    for scheme in $schemes; do
        receive_scheme=$scheme options_a='' options_b=''
        [ $scheme = tls ] && options_a=$(tls hosta) options_b=$(tls hostb)
        for cpus in 1 2 4 8; do
            for size in 128K 512K 2M; do
                turn=$((turn + 1))
                check "turn $turn: 20 moves by $scheme of $cpus vCPUs that write to $size each" round_trips $cpus 20 $size
                at a ferry kill "pattern$cpus" >/dev/null 2>&1
                at b ferry kill "pattern$cpus" >/dev/null 2>&1
                left=$((left - 20))
                [ "$left" -gt 0 ] || break 3
            done
        done
    done
done
echo "# $(wc -l <"$work/moves") moves were made, $failures turns failed"
finish
