#!/bin/sh
# Weights and caps of a machine that is moved: what it had goes along, and nothing can be changed while it goes, as the
# target has its description since the beginning.
# needs: kvm
. "$(dirname "$0")/lib.sh"

setting() { at "$1" ferry cpu m --format json | jq -e "$2"; }

check "a machine with a share of its own" at a run m "dirty size=8M rate=0 seconds=0" --cpu-weight 300 --cpu-cap 0=90% --cpu-backend own
check "with memory in use" await grep -q 'dirty ms=' "$work/a/m/console.log"
receive b
# More than a minute for the first round alone.
at a ferry migrate m "$place" --bandwidth 128K --downtime 1ms --timeout 10m --detach >/dev/null
says "can't be changed while it moves" 1 "ferry: cpu: 'm': CPU time can't be changed while a migration*" \
    at a ferry cpu m --cpu-weight 50
check "but looked at" setting a '.weight == 300'
check "cancel" at a ferry migrate m --cancel
await phase_is a m failed
says "then it can" 0 "*weight*200*" at a ferry cpu m --cpu-weight 200
receive b
check "it moves" at a ferry migrate m "$place" --downtime 10s --timeout 2m
check "what was changed goes along" setting b '.weight == 200 and .vcpus["0"].cap == "90%" and .backend == "own"'
check "and holds there" sh -c "FERRY_RUNTIME_DIR=$work/b ferry stats m --format json | jq -e '.cpu.backend == \"own\" and .vcpus[0].weight == 200'"
at b ferry kill m >/dev/null
finish
