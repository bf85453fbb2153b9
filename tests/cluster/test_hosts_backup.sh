#!/bin/sh
# A cluster is saved, loses its majority, and comes back out of the backup as another generation.
# needs: kvm
. "$(dirname "$0")/lib.sh"
security=
. "$(dirname "$0")/hosts.sh"

mkdir -p "$work/witness" "$work/small"
network_start 2
members=2
host_boot 1 --found
# shellcheck disable=SC2086
wait_until on 1 cluster init $lease_times >/dev/null 2>&1
host_boot 2 --join "$(on 1 cluster token)@$(member_address 1)"
check "two hosts form a cluster" hosts_alive 2
on 1 vm create a --wait --kernel "$guest" --append "test=idle" --memory 64M --restart always >/dev/null
on 1 vm create p --wait --host h1 --kernel "$guest" --append "test=idle" --memory 64M >/dev/null
old=$(machine_field a epoch)
report "a backup is made" on 1 cluster backup "$work/saved"
report "for its owner alone" test "$(stat -c %a "$work/saved")" = 600
mount -t tmpfs -o size=4k none "$work/small" && {
    report "a full disk is told" says "No space left" on 2 cluster backup "$work/small/saved"
    report "and nothing is left of it" test -z "$(ls "$work/small")"
    umount "$work/small"
}
since=$(on 1 vm ls --format json | jq .revision)
power_off 1
power_off 2
mv "$work/data1" "$work/old1"
host_boot 1
check "a host with an empty directory waits" grep -qs "waiting for" "$work/log1"
head -c 5000 "$work/saved" >"$work/short"
(head -c 3000 "$work/saved" && printf 'X' && tail -c +3002 "$work/saved") >"$work/rotten"
report "a backup that was cut short is refused" says "damaged or cut short" on 1 cluster restore "$work/short"
report "and one with a wrong byte" says "damaged or cut short" on 1 cluster restore "$work/rotten"
report "and what is none" says "isn't a backup" on 1 cluster restore "$guest"
report "the right one is taken" on 1 cluster restore "$work/saved"
report "nothing is released before the old leases are over" says "leases of the old cluster" on 1 cluster release
host_boot 2
sleep 4
report "the host of the old cluster isn't let in" test "$(on 1 cluster hosts --format json | jq -c '[.hosts[].state]')" = '["alive","unreported"]'
report "it is missing, and said to be" test "$(on 1 cluster status --format json | jq -c .unreported)" = '["h2"]'
report "who had followed events is told that it missed some" says "doesn't know any more" on 1 vm events --once --since "$((since + 5))"
report "a missing host isn't removed" says "hasn't joined since the restore" on 1 cluster remove h2
check "what could run on the present host only starts by itself" machine_is p running
report "the other machine waits for a person's word" test "$(machine_field a host)" = ""
report "which can be given now" on 1 cluster release
check "then it runs" machine_is a running
report "under an epoch of the new generation" test "$(machine_field a epoch)" -gt $((old + 4294967296))
power_off 2
rm -rf "$work/data2"
host_boot 2 --join "$(on 1 cluster token)@$(member_address 1)"
check "the other host joins anew, under its name" hosts_alive 2
check "and isn't missing any more" sh -c \
    "[ \"\$('$ferry' cluster status --runtime-dir '$work/run1' --format json | jq -c .unreported)\" = '[]' ]"
report "no machine ran twice" witnesses
[ "$failed" = 0 ] || { sed 's/^/# /' "$work/witnesses"; show_logs; }
exit 0
