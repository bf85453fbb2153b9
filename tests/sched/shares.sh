#!/bin/sh
# CPU time among machines: shares, caps, changes, and machines that come, leave, or are killed, stopped or paused in the
# middle. Only ratios of CPU time are looked at, which other work on the host doesn't change: a machine's is right within
# two slices, and two are read some ms apart.
# needs: kvm
. "$(dirname "$0")/../cli/lib.sh"

pid_of() { ferry ps --format json | jq --arg name "$1" '.[] | select(.name == $name) | .pid'; }

# spin NAME OPTION...: a machine that works without a pause.
spin() {
    spin_name=$1
    shift
    ferry run "$spin_name" --detach --kernel "$GUEST" --append "test=spin seconds=0" --memory 32M "$@" >/dev/null || return
    mkdir -p "$work/threads"
    for spin_thread in "/proc/$(pid_of "$spin_name")"/task/*; do
        grep -q '^vcpu' "$spin_thread/comm" && ln -s "$spin_thread/schedstat" "$work/threads/$spin_name.${spin_thread##*/}"
    done
}
own() { spin "$@" --cpu-affinity 0 --cpu-backend own; }

withheld() { ferry stats "$1" --format json | jq '[.vcpus[].withheld_ns] | add'; }
now() { date +%s%N; }

# used NAME...: a line "NAME ns" of the CPU time of its vCPUs for each, all of the same moment.
used() {
    used_files=
    for used_name in "$@"; do used_files="$used_files $work/threads/$used_name.*"; done
    # shellcheck disable=SC2086 # patterns
    awk '{ name = FILENAME; sub(".*/", "", name); sub("[.].*", "", name); ns[name] += $1 }
        END { for (name in ns) printf "%s %.0f\n", name, ns[name] }' $used_files
}
# begin NAME...: notes what each has used; grown NAME...: ns since, in that order.
begin() {
    began=$(now)
    used "$@" >"$work/from"
}
grown() {
    used "$@" | awk -v names="$*" 'NR == FNR { from[$1] = $2; next } { ns[$1] = $2 - from[$1] }
        END { n = split(names, list, " "); for (i = 1; i <= n; i++) printf "%.0f ", ns[list[i]] }' "$work/from" -
}
# Until NAME has used that many ms since begin.
has_grown() { [ "$(($(grown "$1")))" -gt "$(($2 * 1000000))" ]; }
await_use() { await has_grown "$@"; }

# share NAME OTHER LOW HIGH TEST: NAME has used between LOW and HIGH per cent of what OTHER has since begin.
share() {
    read -r share_a share_b <<END
$(grown "$1" "$2")
END
    share_percent=$((share_a * 100 / (share_b + 1)))
    if [ "$share_percent" -ge "$3" ] && [ "$share_percent" -le "$4" ]; then
        ok "$5"
    else
        not_ok "$5" "$1 used $share_a ns, $2 $share_b ns: $share_percent per cent, not $3 to $4"
    fi
}

# ---- what is refused ----
says "a weight that is none" 2 "ferry: run: --cpu-weight: '0' is not a weight*" ferry run x --kernel "$GUEST" --cpu-weight 0
says "a vCPU that isn't there" 2 "*vCPU 1*" ferry run x --kernel "$GUEST" --cpu-weight 1=50
says "CPUs that the host hasn't" 1 "ferry: run: none of the CPUs 255*" ferry run x --kernel "$GUEST" --memory 32M --cpu-affinity 255
says "caps where the backend knows none" 1 "ferry: run: *'sched' knows no caps*" \
    ferry run x --kernel "$GUEST" --memory 32M --cpu-cap 50% --cpu-backend sched
if ! ferry run x --kernel "$GUEST" --append test=hello --memory 32M --cpu-group own >"$work/group" 2>&1; then
    grep -q "no core scheduling" "$work/group" && ok "a group where there's no core scheduling" ||
        not_ok "a group where there's no core scheduling" "$(cat "$work/group")"
else
    ok "the host has core scheduling"
fi

if [ "${TEST_PLACE:-native}" = lab ]; then
    skip "shares of CPU time" "the lab's CPUs are emulated: what one gets says nothing"
    finish
    exit
fi

# ---- weights ----
for w in 100 200 400; do own w$w --cpu-weight $w; done
begin w100 w200 w400
await_use w100 400
share w200 w100 180 220 "twice the weight, twice the time"
share w400 w100 360 440 "four times"
check "they say who enforces it" sh -c 'ferry stats w100 --format json | jq -e ".cpu.backend == \"own\" and .vcpus[0].weight == 100"'
check "time was withheld" [ "$(withheld w100)" -gt "$(withheld w400)" ]
await sh -c 'ferry logs w100 | grep -q "withheld_ms=[1-9]"'
if ferry logs w100 | awk '/withheld_ms=/ { for (i = 1; i <= NF; i++) { split($i, f, "="); v[f[1]] = f[2] } }
        END { exit !(v["withheld_ms"] > 0 && (v["steal_ms"] == "none" || v["steal_ms"] + 50 >= v["withheld_ms"])) }'; then
    ok "the guest knows, and KVM's steal time has it"
else
    not_ok "the guest knows, and KVM's steal time has it" "$(ferry logs w100 | tail -n 3)"
fi

check "a group of a running machine, where the host has any" sh -c 'ferry cpu w100 --cpu-group own 2>&1 | grep -q "no core scheduling\|own"'
check "which doesn't end it" sh -c 'ferry ps --format json | jq -e ".[] | select(.name == \"w100\") | .state == \"running\""'
says "top prints once where there's no terminal" 0 "NAME*w100 *own*vcpu0*" ferry top --interval 200ms
check "and as JSON" sh -c 'ferry top --format json --interval 200ms --sort name | jq -e "map(select(.vcpu == 0 and .wanted_percent > 0)) | length > 0"'
says "doctor knows the backends" 0 "*cpu time*own slicer (own)*" ferry doctor
says "and what KVM does with halts and spinning" 0 "*halts *before a halted vCPU sleeps*spinning *in PAUSE*" ferry doctor

# ---- changes ----
says "shares of a running machine" 0 "*weight*400*" ferry cpu w100 --cpu-weight 400
begin w100 w200 w400
await_use w200 300
share w100 w400 90 110 "count from then on"
share w200 w400 45 55 "for who had its share before as well"
says "and back" 0 "*weight*100*" ferry cpu w100 --cpu-weight 100
own late --cpu-weight 300
begin w100 w200 w400 late
await_use w100 300
share late w100 270 330 "who joins has its share"
share w400 w100 360 440 "and the others theirs"
ferry kill late >/dev/null
begin w100 w200 w400
await_use w100 300
share w200 w100 180 220 "when it has left as well"
share w400 w100 360 440 "each of them"
check "and are part of its description" sh -c 'ferry inspect w100 | jq -e ".cpu_time.weight == 100"'

# ---- killed and stopped in the middle ----
kill -9 "$(pid_of w400)"
begin w100 w200
await_use w100 300 && ok "who is killed holds nobody up" || not_ok "who is killed holds nobody up"
share w200 w100 180 220 "the others have their shares"
stopped=$(pid_of w100)
kill -STOP "$stopped"
begin w200
await_use w200 500 && ok "nor who is stopped" || not_ok "nor who is stopped"
kill -CONT "$stopped"
await sh -c "[ \$(ferry stats w100 --format json | jq '[.vcpus[].runs] | add') -gt 0 ]" # it answers again
begin w100 w200
await_use w100 300
share w200 w100 180 220 "it goes on, with its share and no more"
says "pause" 0 "w100: paused" ferry pause w100
kept=$(withheld w100)
begin w200
await_use w200 100 && ok "nor who is paused" || not_ok "nor who is paused"
check "a paused machine withholds nothing" [ "$(withheld w100)" = "$kept" ]
says "resume" 0 "*" ferry resume w100
begin w100 w200
await_use w100 300
share w200 w100 180 220 "it claims nothing for the pause"
says "snapshot" 0 "*" ferry snapshot w100 "$work/w100.snapshot"
ferry kill w100 >/dev/null
ferry rm w100
says "restore" 0 "*" ferry restore "$work/w100.snapshot" --detach
check "what was withheld is remembered" [ "$(withheld w100)" -ge "$kept" ]
for name in w100 w200; do ferry kill $name >/dev/null; done
ferry rm --all >/dev/null

# ---- caps ----
# capped NAME PER-CENT: never above; that it's reached can't be said on a busy host.
capped() {
    await_use "$1" 300
    capped_used=$(($(grown "$1")))
    capped_most=$(($(($(now) - began)) / 100 * $2 + 40000000))
    if [ "$capped_used" -le "$capped_most" ]; then
        ok "a cap of $2 per cent"
    else
        not_ok "a cap of $2 per cent" "used $capped_used ns of $capped_most"
    fi
}
own c25 --cpu-cap 25%
begin c25
capped c25 25
ferry kill c25 >/dev/null
spin c150 --cpus 2 --cpu-cap 150% --cpu-backend own
begin c150
capped c150 150
says "a cap of one vCPU" 0 "*" ferry cpu c150 --cpu-cap none --cpu-cap 1=10%
sleep 0.1 # what was granted before runs out
before=$(ferry stats c150 --format json | jq '.vcpus[1].cpu_ns')
begin c150
await_use c150 300
one=$(($(ferry stats c150 --format json | jq '.vcpus[1].cpu_ns') - before))
check "holds that one" [ "$one" -le $(($(($(now) - began)) / 10 + 40000000)) ]
ferry kill c150 >/dev/null

# ---- a machine that asked for nothing ----
spin plain
says "can be sliced later" 0 "*cap*20%*" ferry cpu plain --cpu-cap 20%
begin plain
capped plain 20
ferry kill plain >/dev/null
finish
