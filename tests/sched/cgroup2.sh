#!/bin/sh
# Shares of CPU time by control groups of version 2: the kernel's own files, not how much time they give.
# needs: linux
. "$(dirname "$0")/../cli/lib.sh"

root=/sys/fs/cgroup
own=$root$(sed -n 's/^0:://p' /proc/self/cgroup)
own=${own%/}
if ! grep -qw cpu "$own/cgroup.controllers" 2>/dev/null || ! [ -w "$own/cgroup.procs" ] || [ -e "$own/cgroup.type" ]; then
    skip "control groups of version 2" "this shell isn't in the root group of one with the cpu controller, with the right to change it"
    finish
    exit
fi

spin() {
    spin_name=$1
    shift
    ferry run "$spin_name" --detach --kernel "$GUEST" --append "test=spin seconds=0" --memory 32M "$@"
}
pid_of() { ferry ps --format json | jq --arg name "$1" '.[] | select(.name == $name) | .pid'; }
# has FILE TEXT: a file of the machine's group.
has() {
    has_text=$(cat "$group/$1") && [ "$has_text" = "$2" ] && return
    echo "$group/$1 has '$has_text', not '$2'"
    return 1
}
# thread_of N: of vCPU N.
thread_of() { sed -n 1p "$group/vcpu$1/cgroup.threads"; }

says "doctor knows them" 0 "*cgroup2*" ferry doctor
check "a machine that asks for shares" spin c --cpus 2 --cpu-weight 200 --cpu-cap 50% --cpu-affinity 1
check "has them by this where it can" sh -c 'ferry stats c --format json | jq -e ".cpu.backend == \"cgroup2\""'
group=$own/ferry-$(pid_of c)
check "the machine is in a group of its own" grep -qx "$(pid_of c)" "$group/cgroup.procs"
check "whose parts have its threads" has vcpu0/cgroup.type threaded
check "one each" grep -q '^vcpu1' "/proc/$(pid_of c)/task/$(thread_of 1)/comm"
check "the weight of a vCPU" has vcpu0/cpu.weight 200
check "of the machine: of all its vCPUs" has cpu.weight 400
check "its cap" has cpu.max "10000 20000"
check "no cap of a vCPU" has vcpu0/cpu.max "max 100000"
check "its CPUs" has vcpu0/cpuset.cpus 1
check "which hold for the thread" grep -q '^Cpus_allowed_list:.1$' "/proc/$(pid_of c)/task/$(thread_of 0)/status"
check "the cap works" await sh -c "awk '/^nr_throttled/ { exit !(\$2 > 0) }' $group/cpu.stat"
says "changes of a running machine" 0 "*" ferry cpu c --cpu-weight 1=50 --cpu-cap none --cpu-cap 0=10% --cpu-affinity 0
check "its weight" has vcpu1/cpu.weight 50
check "and the machine's" has cpu.weight 250
check "no cap any more" has cpu.max "max 20000"
check "but one of a vCPU" has vcpu0/cpu.max "2000 20000"
check "other CPUs" has vcpu1/cpuset.cpus 0

# ---- the end of machines ----
dead=$(pid_of c)
kill -9 "$dead"
check "it is dead" await sh -c "! grep -q . $group/cgroup.procs"
check "the next one" spin d --cpu-backend cgroup2 --cpu-weight 100
if grep -qs '^State:.Z' "/proc/$dead/status"; then
    skip "removes what the dead one left" "nobody has asked how the dead one ended, so its number is still taken"
else
    check "removes what the dead one left" [ ! -e "$group" ]
fi
ferry kill d >/dev/null
ferry rm --all >/dev/null

# ---- a group that others are in ----
mkdir "$own/shared"
# in_shared COMMAND...: beside another process.
in_shared() { sh -c "echo \$\$ >$own/shared/cgroup.procs && \"\$@\"; exit \$?" sh "$@"; }
says "a group with other processes can't be divided" 1 "*other processes*--cpu-backend*" \
    in_shared ferry run x --kernel "$GUEST" --append test=hello --memory 32M --cpu-backend cgroup2 --cpu-weight 50
says "doctor says so" 0 "*other processes*" in_shared ferry doctor
check "then another way is found" in_shared ferry run own --detach --kernel "$GUEST" --append "test=spin seconds=0" --memory 32M --cpu-weight 50
check "ferry's own" sh -c 'ferry stats own --format json | jq -e ".cpu.backend == \"own\""'
ferry kill own >/dev/null
check "and no group is left there" sh -c "! ls -d $own/shared/ferry-*"
await rmdir "$own/shared"
finish
