#!/bin/sh
# What machines ask of their hosts: labels, pools, nets, CPU models, rules; and what explain says.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

mkdir "$work/pool1" "$work/pool2"
cp "$guest" "$work/pool1/guest.elf"
cp "$guest" "$work/pool2/guest.elf"
facts 1 --host-label rack=a --host-net lan --host-pool "images=$work/pool1,local"
facts 2 --host-label rack=b --host-net lan --host-pool "images=$work/pool2,local" --host-cpu-ratio 1
facts 3 --host-label rack=b --host-label fast
if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi

make() { # NAME OPTION...: returns where it is
    made=$1
    shift
    on 1 vm create "$made" --kernel "$guest" --append "test=idle" --memory 64M --wait "$@" >/dev/null 2>"$work/said" ||
        { sed 's/^/# /' "$work/said"; on 1 vm explain "$made" | sed 's/^/# /'; }
    machine_field "$made" host
}
pending_for() { # NAME WORD
    machine_is "$1" pending && machine_field "$1" reason | grep -q "$2"
}

report "hosts tell what they have" sh -c "'$ferry' cluster hosts --runtime-dir '$work/run1' |
    grep -q '^h1 .*cpu=x86-64-v[1-4] labels=rack=a pools=images nets=lan$'"
report "a machine goes where the label is" test "$(make fast --host-label fast)" = h3
report "and where its net is" sh -c "case '$(make net --need-net lan --away host:h1)' in h2) ;; *) false ;; esac"
report "it keeps away from another by a label" test "$(make one --label db --host h1)" = h1
report "strictly" sh -c "case '$(make two --label db --away label:db --host-label rack=b)' in h[23]) ;; *) false ;; esac"
report "one goes to be with another" test "$(make beside --with machine:fast)" = h3
report "a soft rule is a wish" test "$(make soft --away host:h2,soft=5 --host h2)" = h2

on 1 vm create nowhere --kernel "$guest" --memory 64M --host-label moon >/dev/null
report "one that no host suits waits, and says why" wait_until pending_for nowhere label
on 1 vm explain nowhere >"$work/said"
report "explain says it of each host" test "$(grep -c "^h[123] .*label.*moon" "$work/said")" = 3
on 1 vm create model --kernel "$guest" --memory 64M --cpu x86-64-v2,+no_such >/dev/null
report "one whose CPU feature no host has waits too" wait_until pending_for model CPU
on 1 vm create wide --kernel "$guest" --memory 64M --cpus 4 --host h2 >/dev/null
report "a host's own overcommit ratio counts" wait_until pending_for wide CPU
on 1 vm delete wide --wait >/dev/null

create_x() {
    on 1 vm create x --kernel "$guest" --memory 64M "$@"
}
report "a CPU model that nobody knows is refused" says "CPU model 'x86-64-v9': unknown" create_x --cpu x86-64-v9
report "a feature that is none is too" says "a feature is +NAME or -NAME" create_x --cpu x86-64-v2,gfni
on 1 vm create torn --kernel "$guest" --memory 64M --with machine:one --away machine:two --host h2 >/dev/null
on 1 vm explain torn >"$work/said"
report "explain names machines by their names" grep -q "^h2 .*be [a-z]* *[a-z]* 'one'\|^h2 .*'two'" "$work/said"
on 1 vm stop nowhere --wait >/dev/null
report "one that is stopped waits for nothing" test "$(machine_field nowhere 'reason')" = ""
report "nobody moves to a host without a name" says "no host ''" on 1 vm migrate nowhere --to ""
report "a name that nobody has has no events" says "there is no machine 'ghost'" on 1 vm events ghost --once --since 1
once=$(create_x --stopped --request once)
report "a request done twice makes one machine" test "$(create_x --stopped --request once)" = "$once"
report "but not one of another name" says "has made 'x', not 'y'" \
    on 1 vm create y --kernel "$guest" --memory 64M --request once
on 1 vm delete torn x --wait >/dev/null

# The file's way of saying the same.
cat >"$work/f.json" <<JSON
{"kernel": "images:guest.elf", "append": "test=idle", "memory": "64M",
 "placement": {"labels": ["web"], "host_labels": ["rack=b"], "rules": [{"away": "machine:one", "strict": true}]}}
JSON
on 1 vm create file -f "$work/f.json" --wait >/dev/null 2>"$work/said"
report "a file says it too, and names its kernel by a pool" test "$(machine_field file host)" = h2
report "show tells what was asked for" test "$(machine_field file 'placement.rules[0].away')" = machine:one
report "a file of a local pool doesn't leave its host" sh -c \
    "! '$ferry' vm migrate file --runtime-dir '$work/run1' >'$work/said' 2>&1"
report "a path out of the pool is refused" sh -c \
    "! '$ferry' vm create x --kernel images:../guest.elf --runtime-dir '$work/run1' 2>/dev/null"
report "a move against a label is refused, with the reason" sh -c \
    "! '$ferry' vm migrate fast --to h1 --runtime-dir '$work/run1' 2>'$work/said' && grep -q label '$work/said'"
report "one that must stay with another doesn't move alone" sh -c \
    "! '$ferry' vm migrate beside --runtime-dir '$work/run1' >/dev/null 2>&1"
moves() { on 1 vm migrate two --wait >"$work/said" 2>&1 || { sed 's/^/# /' "$work/said"; false; }; }
before=$(machine_field two host)
report "a move finds its target itself" moves
report "which is another host that suits" test "$before $(machine_field two host)" = \
    "$(echo "$before" | sed 's/h2/h2 h3/; t; s/h3/h3 h2/')"
bad='{"rules": [{"near": "label:x"}]}'
echo "{\"kernel\": \"$guest\", \"placement\": $bad}" >"$work/bad.json"
on 1 vm create bad -f "$work/bad.json" 2>"$work/said"
report "a rule that is none is refused" grep -q '"with" or "away"' "$work/said"

[ "$failed" = 0 ] || show_logs
exit 0
