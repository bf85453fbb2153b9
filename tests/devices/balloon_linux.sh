#!/bin/sh
# needs: linux
# Stock Linux and the balloon: memory goes to the host when it is asked for and when it is free, and comes back.
. tests/boot/linux_lib.sh

json() { ferry "$1" "$2" --format json >"$work/json" && jq -e "$3" "$work/json" >/dev/null; }
resident() { ferry stats "$1" --format json | jq .memory.process_resident_bytes; }
# shrinks NAME BEFORE BYTES: within some time.
shrinks() {
    left=600
    while [ "$(resident "$1")" -gt $(($2 - $3)) ]; do
        left=$((left - 1))
        [ $left -gt 0 ] || { reason="from $2 bytes to $(resident "$1")"; return 1; }
        sleep 0.1
    done
}

# The file in a tmpfs is free again when it is removed: 64 MiB are reported then.
script='dd if=/dev/zero of=/tmp/f bs=1M count=64 2>/dev/null; echo step-one; read x; rm /tmp/f; echo step-two; read x; dd if=/dev/zero of=/tmp/g bs=1M count=96 2>/dev/null && echo step-three; read x'
linux balloon "ferry.mode=cmd64=$(echo "$script" | base64 | tr -d '\n') console=ttyS0" --balloon
check balloon "Linux starts with a balloon and fills its memory" wait_line balloon step-one
full=$(resident balloon)
check balloon "its driver gives statistics" json balloon balloon '.driver and .reports_free_pages and .statistics.free_bytes > 0'
printf '\n' | socat -u - "UNIX-CONNECT:$FERRY_RUNTIME_DIR/balloon/console.sock"
check balloon "it frees the memory" wait_line balloon step-two
check balloon "which is the host's by free page reporting" shrinks balloon "$full" $((48 << 20))
check balloon "as the balloon counts" json balloon balloon '.reported_bytes >= (48 * 1048576)'
check balloon "it makes do with 160 MiB" ferry balloon balloon 160M --wait 100s
check balloon "by inflating" json balloon balloon '.discarded_bytes >= (64 * 1048576)'
check balloon "and takes its memory back" ferry balloon balloon 256M
printf '\n' | socat -u - "UNIX-CONNECT:$FERRY_RUNTIME_DIR/balloon/console.sock"
check balloon "to use it" wait_line balloon step-three
exit $failed
