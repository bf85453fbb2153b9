#!/bin/sh
# Dozens of moves back and forth, with up to 8 vCPUs. In an emulated host each takes long: move.sh has a few for it.
# needs: kvm
. "$(dirname "$0")/lib.sh"

if [ "$TEST_PLACE" = lab ]; then
    skip "dozens of moves" "in an emulated host they take too long"
    exit 0
fi
check "10 moves of 1 vCPU" round_trips 1 10
check "6 moves of 2 vCPUs" round_trips 2 6
check "4 moves of 4 vCPUs" round_trips 4 4 128K
check "3 moves of 8 vCPUs" round_trips 8 3 64K
sed 's/^/# /' "$work/moves"
finish
