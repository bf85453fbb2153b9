#!/bin/sh
# What ferry says to wrong usage, and what works without KVM.
# needs: nothing
. "$(dirname "$0")/lib.sh"

says "no command" 2 "*Usage: ferry*run*doctor*" ferry
says "unknown command" 2 "ferry: 'frobnicate' is not a command*" ferry frobnicate
says "help" 0 "Usage: ferry*inspect*" ferry help
says "version" 0 "ferry 0.*" ferry --version
for command in run ps inspect stats balloon device console logs events wait stop kill pause resume reset rm doctor version; do
    says "$command --help" 0 "Usage: ferry $command*--help*" ferry $command --help
    says "help $command" 0 "Usage: ferry $command*--help*" ferry help $command
    says "$command: unknown option" 2 "ferry: $command: option --frobnicate is not known*" ferry $command --frobnicate
done
says "missing value" 2 "ferry: run: option --kernel needs a value*" ferry run --kernel
says "value where none belongs" 2 "ferry: run: option --detach takes no value*" ferry run --detach=yes
says "too many arguments" 2 "ferry: run: 'b' is one argument too many*" ferry run a b
says "missing argument" 2 "ferry: pause: an argument is missing*" ferry pause
says "options may be shortened" 2 "ferry: run: --memory: '3x'*" ferry run --mem 3x
says "ambiguous beginning" 2 "ferry: run: option --on is not known, or not told in full*" ferry run --on exit

says "no kernel" 2 "ferry: run: no kernel given*" ferry run web
says "bad name" 2 "ferry: run: 'Web!' is not a machine name*" ferry run 'Web!' --kernel x
says "bad size" 2 "ferry: run: --memory: '12Q' is not a size*" ferry run --kernel x --memory 12Q
says "too little memory" 2 "ferry: run: 1 MiB of memory*" ferry run --kernel x --memory 1M
says "odd memory" 2 "ferry: run: *not whole pages*" ferry run --kernel x --memory 16777217
says "bad CPU count" 2 "ferry: run: --cpus: '65' is not a number from 1 to 64*" ferry run --kernel x --cpus 65
says "bad choice" 2 "ferry: run: --on-reboot: 'x' is none of: restart, exit*" ferry run --kernel x --on-reboot x
says "bad choice of four" 2 "ferry: run: --on-panic: 'x' is none of: crash, reset, pause, ignore*" ferry run --kernel x --on-panic x
says "bad disk option" 2 "ferry: run: --disk: disk 'a,rw'*" ferry run --kernel x --disk a,rw
says "network that isn't known" 2 "ferry: run: --net: net 'wire': not a network*" ferry run --kernel x --net wire
says "missing kernel" 1 "ferry: run: kernel '*/nowhere': No such file or directory" ferry run --kernel nowhere
says "missing kernel, detached" 1 "ferry: run: kernel '*/nowhere': No such file*" ferry run --detach --kernel nowhere
says "missing disk" 1 "ferry: run: *nodisk*No such file*" ferry run --kernel "$GUEST" --disk nodisk
says "missing kernel with --debug-exit" 2 "ferry: run: kernel '*" ferry run --debug-exit --kernel nowhere
check "failed starts leave no machine" [ -z "$(ls "$FERRY_RUNTIME_DIR")" ]

echo '{"kernel": "/k", "cpuz": 1}' >"$work/unknown.json"
echo '{"kernel": ' >"$work/broken.json"
says "config: unknown key is named" 2 "*unknown.json: 'cpuz' is not a key*" ferry run --config "$work/unknown.json"
says "config: broken JSON" 2 "*broken.json, line*" ferry run --config "$work/broken.json"
says "config: missing file" 2 "*none.json*No such file*" ferry run --config "$work/none.json"

says "help of a group of commands" 0 "*ferry vm COMMAND*create*" ferry help vm
says "a group without a command" 2 "Usage: ferry cluster COMMAND*" ferry cluster
says "a command that a group hasn't" 2 "ferry: vm: 'nonsense' is not a command of it*" ferry vm nonsense
says "no ferryd" 1 "ferry: vm ls: no ferryd runs for *" ferry vm ls
says "a relative path for all hosts" 1 "*'x': hosts find files by absolute paths*" ferry vm create m --kernel x
says "ps of nothing" 0 "NAME *" ferry ps -a
check "ps as JSON" sh -c '[ "$(ferry ps --format json | jq -c .)" = "[]" ]'
for command in pause resume reset stop kill inspect stats events console logs wait rm; do
    says "$command: no such machine" 1 "ferry: $command: there is no machine named 'nobody'*" ferry $command nobody
done
says "rm without names" 2 "ferry: rm: give names, or --all*" ferry rm
says "bad time" 2 "ferry: stop: --timeout: '5' is not a time*" ferry stop --timeout 5 x

# ---- what is printed, and where ----
says "help of help" 0 "Usage: ferry*inspect*" ferry help --help
for command in "ps" "ps --format json" "version" "run --help" "doctor --format json"; do
    # shellcheck disable=SC2086,SC2016
    says "$command to a full disk" 1 "ferry: what it has to print can't be written: *" \
        sh -c 'ferry "$@" >/dev/full' - $command
done
# shellcheck disable=SC2016
says "to a closed output" 1 "ferry: what it has to print can't be written: Bad file descriptor" sh -c 'ferry ps >&-'

# ---- addresses ----
says "receive: a port that is none" 2 "*'65536' is not a port from 0 to 65535*" ferry receive --listen tcp://127.0.0.1:65536
says "store: a port that is none" 1 "*127.0.0.1:65536*" ferry store get a --store 127.0.0.1:65536

# ---- ferryd ----
says "ferryd --version" 0 "ferryd 0.*" ferryd --version
says "ferryd --help" 0 "usage: ferryd*--version*" ferryd --help
says "ferryd: nothing said" 2 "ferryd: --data DIR is missing*--help*" ferryd
says "ferryd: unknown option" 2 "ferryd: option --nonsense is not known*" ferryd --nonsense
says "ferryd: a missing value" 2 "ferryd: option --data needs a value*" ferryd --data
says "ferryd: an argument" 2 "ferryd: 'x' is one argument too many*" ferryd x
says "ferryd: a wrong value" 2 "ferryd: --segment: '1' is not a size from 8M*" ferryd --segment 1
says "ferryd: wrong time-outs" 2 "ferryd: --election: '5' is not two times*" ferryd --election 5
says "ferryd: a store without room" 2 "ferryd: --memory: '0' is not a size*" ferryd --memory 0
says "ferryd: a wrong pool" 2 "ferryd: --host-pool: 'x': a pool is NAME=*" ferryd --host-pool x
# A host that waits to be told to found or to join: it doesn't, where it could never do so.
# ferryd_refuses NAME PATTERN DATA PEER CLIENT [OPTION]...
ferryd_refuses() {
    refuses=$1 pattern=$2 data=$3 peer=$4 client=$5
    shift 5
    says "ferryd: $refuses" 1 "$pattern" timeout 60 ferryd --data "$data" --name a --listen-peer "$peer" \
        --listen-client "$client" "$@"
}
ferryd_refuses "no port to listen at" "ferryd: 'foo': not an address*" "$work/d" foo 127.0.0.1:7001
ferryd_refuses "too large a port" "ferryd: '127.0.0.1:65536': not an address*" "$work/d" 127.0.0.1:7000 127.0.0.1:65536
ferryd_refuses "no address for monitors" "ferryd: --metrics: 'foo': not an*" "$work/d" 127.0.0.1:7000 127.0.0.1:7001 --metrics foo
ferryd_refuses "data in a file" "ferryd: --data: '*/unknown.json' is not a directory" "$work/unknown.json" 127.0.0.1:7000 127.0.0.1:7001
ferryd_refuses "data nowhere" "ferryd: directory '/proc/x' can't be made: *" /proc/x 127.0.0.1:7000 127.0.0.1:7001
ferryd_refuses "certificates that aren't there" "ferryd: TLS: *none.pem*" "$work/d" 127.0.0.1:7000 127.0.0.1:7001 \
    --tls-cert none.pem --tls-key none.pem --tls-ca none.pem

mkdir "$work/open" && chmod 777 "$work/open"
says "open runtime directory" 1 "ferry: ps: runtime directory '*/open' can be written to by others*" \
    ferry ps --runtime-dir "$work/open"
long=$work/$(printf 'x%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 \
    31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 \
    66 67 68 69 70 71 72 73 74 75 76 77 78 79 80)
says "long runtime directory" 1 "ferry: run: *choose a shorter runtime directory*" \
    ferry run web --kernel "$GUEST" --runtime-dir "$long"

# The manual page knows every command and option.
missing=
sed 's/\\-/-/g' docs/man/ferry.1 >"$work/manual"
for command in cluster vm run ps inspect stats balloon device console logs events wait stop kill pause resume reset rm doctor version \
    cpu top receive migrate snapshot restore store; do
    grep -Eq "^\.SS (.*\| )?$command\b" "$work/manual" || missing="$missing $command"
    for option in $(ferry help $command | grep -oE '^ +(-., )?--[a-z-]+' | grep -oE -- '--[a-z-]+'); do
        grep -q -- "$option" "$work/manual" || missing="$missing $command:$option"
    done
done
[ -z "$missing" ] && ok "ferry(1) has all of it" || not_ok "ferry(1) has all of it" "$missing"
missing=
sed 's/\\-/-/g' docs/man/ferryd.1 >"$work/manual"
for option in $(ferryd --help | grep -oE -- '--[a-z-]+'); do
    grep -q -- "$option" "$work/manual" || missing="$missing $option"
done
[ -z "$missing" ] && ok "ferryd(1) has all of it" || not_ok "ferryd(1) has all of it" "$missing"

# without_kvm COMMAND...: in a mount namespace whose /dev has no kvm.
without_kvm() {
    [ -e /dev/kvm ] || { "$@"; return; }
    mkdir -p "$work/dev"
    # shellcheck disable=SC2016 # the inner shell's
    unshare --map-root-user --mount sh -c 'mount -t tmpfs dev "$0" || exit
        for node in null zero full urandom; do : >"$0/$node" && mount --bind "/dev/$node" "$0/$node" || exit; done
        mount --rbind "$0" /dev && exec "$@"' "$work/dev" "$@"
}
if without_kvm true 2>/dev/null; then
    says "doctor without KVM" 1 "*bad * kvm * no machine can run*" without_kvm ferry doctor
    # shellcheck disable=SC2016
    check "doctor without KVM as JSON" sh -c \
        'echo "$1" | jq -e ".kvm_usable == false and .ring0_native == null and (.findings | length > 3)"' - \
        "$(without_kvm ferry doctor --format json)"
    says "run without KVM" 1 "ferry: run: /dev/kvm: this host offers no KVM*" without_kvm ferry run web --kernel "$GUEST"
else
    skip "doctor without KVM" "this host has /dev/kvm, and no mount namespace without it can be made"
    skip "run without KVM" "this host has /dev/kvm, and no mount namespace without it can be made"
fi
finish
