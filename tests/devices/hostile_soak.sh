#!/bin/sh
# Many seeds of tests/devices/hostile.sh, with one to three vCPUs; the first that fails says which it was.
#   hostile_soak.sh [SEEDS [ROUNDS]]
seeds=${1:-30} rounds=${2:-60}
cd "$(dirname "$0")/../.." || exit 1
if ! [ -w /dev/kvm ]; then
    echo "ok - attacks from inside # SKIP no /dev/kvm to write to"
    exit 0
fi
for seed in $(seq "$seeds"); do
    cpus=$((seed % 3 + 1))
    if output=$(tests/devices/hostile.sh "$rounds" "$seed" $cpus); then
        echo "ok - $rounds rounds of attacks by $cpus vCPUs, seed $seed"
    else
        echo "not ok - $rounds rounds of attacks by $cpus vCPUs, seed $seed"
        printf '%s\n' "$output" | sed 's/^/# /'
        exit 1
    fi
done
