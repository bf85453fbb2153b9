#!/bin/sh
# A machine's process is shut in, every thread of it, and still does all that it must: crash reports with disassembly,
# consoles that come and go, snapshots. (What each thread is kept from: tests/unit/test_sandbox.c.)
# needs: kvm
. "$(dirname "$0")/lib.sh"

pid_of() { ferry ps --format json | jq -r --arg name "$1" '.[] | select(.name == $name) | .pid'; }
# field PID FIELD: that line of each thread's status, once each.
field() { sed -n "s/^$2:[[:space:]]*//p" /proc/"$1"/task/*/status | sort -u; }

truncate -s 1M "$work/disk"
run shut "blk mode=loop" --cpus 2 --disk "$work/disk" >/dev/null || not_ok "a machine starts"
await sh -c 'ferry logs shut | grep -q "blk loop requests="'
pid=$(pid_of shut)
check "every thread has a filter" [ "$(field "$pid" Seccomp)" = 2 ]
check "and no new privileges" [ "$(field "$pid" NoNewPrivs)" = 1 ]
check "and no capabilities" [ "$(for set in CapInh CapPrm CapEff CapAmb; do field "$pid" $set; done | sort -u)" = \
    0000000000000000 ]
if ferry doctor --format json | jq -e '.findings[] | select(.subject == "namespaces") | .verdict == "ok"' >/dev/null; then
    check "it has namespaces of its own" sh -c 'for kind in user mnt net; do
        [ "$(readlink /proc/$0/ns/$kind)" != "$(readlink /proc/self/ns/$kind)" ] || exit; done' "$pid"
    check "so has every thread" [ "$(for space in /proc/"$pid"/task/*/ns/net /proc/"$pid"/task/*/ns/mnt; do
        readlink "$space"; done | sort -u | wc -l)" = 2 ]
    check "no network" [ "$(sed 1,2d /proc/"$pid"/net/dev | wc -l)" = 1 ]
    check "none of the host's files" sh -c 'cd /proc/$0/root && ls . && ! ls etc/passwd home root dev tmp 2>/dev/null' "$pid"
    check "no other process" [ "$(ls /proc/"$pid"/root/proc)" = self ]
    check "nothing of the host is mounted there" sh -c '! grep -v " /\(machines\|proc/self\|usr/.*lib[0-9]*\|lib[0-9]*\|etc/.*\|usr/share/.*\|\) " \
        /proc/$0/mountinfo' "$pid"
    check "the log says so" grep -q "info sandbox: .*namespaces" "$FERRY_RUNTIME_DIR/shut/log"
else
    skip "namespaces" "$(ferry doctor | sed -n 's/^[a-z]* *namespaces *//p')"
fi
check "it would leave no core file" sh -c 'grep -q "^Max core file size  *0  *0 " /proc/$0/limits' "$pid"
check "the log says how it is shut in" grep -q "info sandbox: system call filters" "$FERRY_RUNTIME_DIR/shut/log"

console_comes_and_goes() {
    for visit in 1 2; do
        ferry console shut </dev/null >"$work/console$visit" 2>&1 &
        visitor=$!
        await grep -q "blk loop requests=" "$work/console$visit"
        seen=$?
        kill $visitor
        wait $visitor
        [ $seen = 0 ] || return 1
    done
}
check "consoles come and go" console_comes_and_goes
check "it resets" ferry reset shut
await sh -c 'ferry ps --format json | jq -e ".[0].state == \"running\""'
check "and is killed" ferry kill shut
run still "idle seconds=0" >/dev/null
check "a snapshot is written" ferry snapshot still "$work/snapshot"
ferry kill still >/dev/null
check "a restored machine runs" ferry restore "$work/snapshot" again --detach
check "and is shut in as well" [ "$(field "$(pid_of again)" Seccomp)" = 2 ]
ferry kill again >/dev/null

ferry run crash --kernel "$GUEST" --memory 32M --append "test=crash mode=triple" </dev/null >"$work/out" 2>&1
# (Under SVM the registers of a triple fault are those of a reset: there's no code to show then.)
grep -q "> 0f 0b" "$work/out" && [ -e /usr/lib/x86_64-linux-gnu/libcapstone.so.4 ] &&
    check "a crash report disassembles code" grep -q "^ *[0-9a-f]\{16\}  ud2" "$work/out"
check "nothing was denied" sh -c '! grep -h "sandbox: thread" "$FERRY_RUNTIME_DIR"/*/log'

own=$(sed -n 's/^Seccomp:[[:space:]]*//p' /proc/self/status)
run open "idle seconds=0" --sandbox off >/dev/null || not_ok "a machine starts with --sandbox off"
check "--sandbox off means off" [ "$(field "$(pid_of open)" Seccomp)" = "$own" ]
check "and the log says so" grep -q "warning sandbox: off" "$FERRY_RUNTIME_DIR/open/log"
# (Without capabilities nothing can be removed from a root group, whose mode is 0555: the next start does it.)
if run group "idle seconds=0" --sandbox off --cpu-backend cgroup1 --cpu-weight 50 >/dev/null 2>&1; then
    group=ferry-$(pid_of group)
    groups() { find /sys/fs/cgroup -maxdepth 4 -name "$group" 2>/dev/null; }
    check "a machine has a control group" [ -n "$(groups)" ]
    ferry kill group >/dev/null
    gone() { [ -z "$(groups)" ]; }
    check "which goes with it" await gone
else
    skip "control groups of version 1" "none can be made here"
fi
says "other words are refused" 2 "*sandbox*none of: on, off*" ferry run x --kernel "$GUEST" --sandbox maybe
finish
