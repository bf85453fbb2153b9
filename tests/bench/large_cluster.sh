#!/bin/sh
# What the commands about machines cost in a cluster of one host with so many records of machines
# that are stopped:
#   tests/bench/large_cluster.sh MACHINES
# Prints the time of a call and the CPU time that ferryd takes for it. Needs root and network
# namespaces; no KVM.
machines=$1
. "$(dirname "$0")/../cluster/lib.sh"
without_machines=yes
. "$(dirname "$0")/../cluster/hosts.sh"
lease_times=
hosts_start 1 || exit 1
python3 - "$machines" >"$work/txns" <<'P'
import json, sys, uuid

ops = []


def put(key, **value):
    ops.append({"put": "ferry/" + key, "value": json.dumps({"v": 1, **value})})


for i in range(int(sys.argv[1])):
    u = str(uuid.UUID(int=i + 1))
    put(f"names/m{i}", uuid=u)
    put(f"machines/{u}", name=f"m{i}", wish="stopped", restart="always", cpus=1, memory=1 << 30, wish_number=1,
        description={"kernel": "/srv/vmlinuz", "cpus": 1, "memory": 1 << 30, "disks": [{"path": f"data:m{i}.img"}]},
        placement={"labels": ["web"]})
    put(f"owners/{u}", stage="none", host="", incarnation=0, epoch=1)
    put(f"states/{u}", state="stopped", host="", reason="", since_ms=1, restarts=0)
for i in range(0, len(ops), 100):
    print(json.dumps({"then": ops[i:i + 100]}))
P
while read -r t; do
    printf '%s' "$t" | hub "$ferry" store txn --store "$(addresses)" --timeout 20s >/dev/null || echo "a record is missing"
done <"$work/txns"
pid=$(ferryd_pid 1)
ticks() {
    awk '{print $14 + $15}' "/proc/$pid/stat"
}
time_of() { # TIMES FERRY-ARGUMENT...
    times=$1
    shift
    used=$(ticks) began=$(date +%s%N) i=0
    while [ "$i" -lt "$times" ]; do
        on 1 "$@" >"$work/out" 2>&1 || { echo "$*: $(head -c 200 "$work/out")" && return; }
        i=$((i + 1))
    done
    ended=$(date +%s%N)
    echo "$*: $(((ended - began) / times / 1000)) us, $((($(ticks) - used) * 10000 / times)) us of ferryd's CPU, $(wc -l <"$work/out") lines"
}
time_of 20 vm show m77
time_of 20 vm start m77
time_of 20 vm stop m77
time_of 3 vm ls
time_of 5 cluster status
echo "load $(cat /proc/loadavg)"
