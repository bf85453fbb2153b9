#!/bin/sh
# Two hosts of the lab, each with a kernel and an ordinary KVM of its own, form a cluster with certificates of its own. It
# is given a stock Linux, which goes where placement says, and `ferry vm migrate` moves it to the other host and back: it
# doesn't notice. Runs on lab1 of `scripts/lab --hosts 2`; a job of the soak.
. "$(dirname "$0")/../cli/lib.sh"

[ "${LAB_HOST:-lab1}" = lab1 ] || exit 0 # the other one is led from here
FERRY_RUNTIME_DIR=/tmp/ferry-run
# Hours of an ordinary host are seconds here: a lease that a slow second doesn't end.
lease="--lease 120s --deadline 100s --stop 10s --renew 2s"
elections="--heartbeat 500ms --election 5s-10s"
cat >"$work/script" <<'GUEST'
n=0
while :; do
    n=$((n + 1))
    echo "tick $n $(cut -d' ' -f1 /proc/uptime) end"
    sleep 0.2
done
GUEST

on_host() { # lab1|lab2 SCRIPT
    if [ "$1" = lab1 ]; then
        sh -c "$2"
    else
        lab-exec "$1" "cd $PWD && PATH=$PWD/build:\$PATH && export FERRY_RUNTIME_DIR=$FERRY_RUNTIME_DIR && $2"
    fi
}
ferryd_start() { # lab1|lab2 NUMBER [OPTION]...
    started=$1 number=$2
    shift 2
    on_host "$started" "ferryd --data /tmp/ferry-data --name $started --runtime-dir $FERRY_RUNTIME_DIR $elections \
        --listen-peer 10.77.0.$number:7000 --listen-client 10.77.0.$number:7001 $* >/tmp/ferryd.log 2>&1 </dev/null &"
}
field() { ferry vm show linux --format json 2>/dev/null | jq -r ".$1"; }
alive() { [ "$(ferry cluster hosts --format json 2>/dev/null | jq '[.hosts[] | select(.state == "alive")] | length')" = "$1" ]; }
console() { on_host "$1" "cat $FERRY_RUNTIME_DIR/$uuid/console.log" 2>/dev/null; }
ticks_at() { console "$1" | grep -q 'tick [0-9]* [0-9.]* end'; }
show_logs() {
    for host in lab1 lab2; do
        on_host "$host" "tail -n 30 /tmp/ferryd.log $FERRY_RUNTIME_DIR/*/log" 2>&1 | sed "s/^/# $host: /"
    done
}
is_moving_to() { # HOST: asked for, on its way, or there
    ferry vm migrate linux --to "$1" 2>&1 || [ "$(field migration.target)$(field move_to)" != nullnull ] || [ "$(field host)" = "$1" ]
}
has_moved_to() { [ "$(field host) $(field state) $(field migration.stage)" = "$1 running null" ]; }
move() { # FROM TO: what it has said until then is kept. A ferryd that is slow here may not answer in time, so no --wait
    await is_moving_to "$2" && await has_moved_to "$2" || { ferry vm show linux; return 1; }
    console "$1" >>"$work/all"
}

ferryd_start lab1 1
founded() { ferry cluster init $lease; }
check "one host founds a cluster" await founded
check "it is alive" await alive 1
token=$(ferry cluster token)
ferryd_start lab2 2 --join "$token@10.77.0.1:7001"
check "the other one joins by a token" await alive 2
uuid=$(ferry vm create linux --kernel "$PWD/build/linux/vmlinuz" --initrd "$PWD/build/linux/initramfs.cpio.gz" --memory 256M \
    --append "console=ttyS0 quiet ferry.mode=cmd64=$(base64 "$work/script" | tr -d '\n')")
runs() { [ "$(field state)" = running ]; }
check "Linux is placed, and runs" await runs
first=$(field host)
second=$([ "$first" = lab1 ] && echo lab2 || echo lab1)
check "it ticks" await ticks_at "$first"
check "it moves to the other host" move "$first" "$second"
check "it ticks there" await ticks_at "$second"
check "it moves back" move "$second" "$first"
check "it ticks here again" await ticks_at "$first"
sleep 2
console "$first" >>"$work/all"
check "in the epochs of its moves" test "$(field epoch)" = 4
tr -d '\r' <"$work/all" >"$work/ticks"
check "no tick lacks, none comes twice, time goes on" awk '
    /tick [0-9]+ [0-9.]+ end/ {
        sub(/.*tick/, "tick")
        if ($2 != last + 1) { print "tick " $2 " after " last; bad = 1 }
        if ($3 < time) { print "time " $3 " after " time; bad = 1 }
        last = $2; time = $3
    }
    END { if (last < 5) { print "only " last " ticks"; bad = 1 }; print "# " last " ticks"; exit bad }' "$work/ticks"
grep -c tick "$work/ticks" | sed 's/^/# lines with a tick: /'
ferry vm delete linux --wait
[ "$failures" = 0 ] || show_logs
finish
