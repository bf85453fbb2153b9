#!/bin/sh
# CPU of each ferryd of an idle cluster of three hosts, with records of so many others beside them:
#   tests/bench/idle_cluster.sh HOSTS MACHINES
# Needs root and network namespaces; no KVM.
more_hosts=$1
machines=$2
. "$(dirname "$0")/../cluster/lib.sh"
without_machines=yes
. "$(dirname "$0")/../cluster/hosts.sh"
lease_times=
hosts_start 3 || exit 1
python3 - "$more_hosts" "$machines" >"$work/txns" <<'P'
import json,sys,uuid
H,M=int(sys.argv[1]),int(sys.argv[2])
ops=[]
facts={"cpu_level":4,"cpu_id":"x","cpu_features":["f%d"%i for i in range(80)],"pools":[{"name":"data","path":"/srv/data","shared":True}],"nets":["lan"]}
def put(k,v): ops.append({"put":k,"value":json.dumps(v)})
for i in range(H):
    n="z%05d"%i
    put("ferry/hosts/"+n,{"v":1,"address":"","version":"x","cpus":64,"memory":1<<38,"draining":False,"facts":facts})
    put("ferry/lives/"+n,{"v":1,"incarnation":1,"identity":"i","boot_id":"b","fenced":True})
    put("ferry/renewals/"+n,{"v":1,"incarnation":1,"count":1})
for i in range(M):
    u=str(uuid.UUID(int=i+1))
    put("ferry/machines/"+u,{"v":1,"name":"m%d"%i,"wish":"stopped","restart":"always","cpus":1,"memory":1<<30,"wish_number":1,"description":{"kernel":"/srv/vmlinuz","cpus":1,"memory":1<<30,"disks":[{"path":"data:m%d.img"%i}]},"placement":{"labels":["web"]}})
    put("ferry/owners/"+u,{"v":1,"stage":"none","host":"","incarnation":0,"epoch":1})
    put("ferry/states/"+u,{"v":1,"state":"stopped","host":"","reason":"","since_ms":1,"restarts":0})
for i in range(0,len(ops),100): print(json.dumps({"then":ops[i:i+100]}))
P
while read -r t; do printf '%s' "$t" | hub "$ferry" store txn --store "$(addresses)" --timeout 20s >/dev/null || echo failed; done <"$work/txns"
sleep 5
ticks() { awk '{print $14+$15}' /proc/$1/stat; }
for i in 1 2 3; do p=$(ferryd_pid $i); eval "p$i=$p; t$i=$(ticks "$p")"; done
sleep 20
lead=$(on 1 cluster status --format json | jq -r .manager)
for i in 1 2 3; do eval "p=\$p$i; t=\$t$i"; echo "h$i: $(( ($(ticks "$p") - t) * 10 / 20 )) ms of CPU a second (manager $lead) rss $(awk '/VmRSS/{print $2}' /proc/$p/status) KiB"; done
echo "load $(cat /proc/loadavg)"
