#!/bin/sh
# A foreground run on a terminal: raw mode, the menu, and the terminal as it was before, whatever the end.
# needs: kvm
. "$(dirname "$0")/lib.sh"

# on_terminal NAME: runs $work/NAME.sh on a new terminal, whose input comes from the fifo $work/NAME.in and whose
# output goes to $work/NAME.out.
on_terminal() {
    mkfifo "$work/$1.in"
    socat "EXEC:sh $work/$1.sh,pty,setsid,ctty,stderr" "STDIO" <"$work/$1.in" >"$work/$1.out" &
    terminal=$!
    exec 9>"$work/$1.in"
}
type_keys() { printf "$1" >&9; }
shows() { await grep -q "$1" "$out"; }
end_terminal() {
    exec 9>&-
    wait $terminal
}
# The script of a terminal: modes before and after the command given.
script() {
    cat >"$work/$1.sh" <<END
stty -a >$work/$1.before
$2
echo status=\$?
stty -a >$work/$1.after
END
    out=$work/$1.out
}
restored() {
    await test -s "$work/$1.after"
    if cmp -s "$work/$1.before" "$work/$1.after"; then
        ok "$1: the terminal is as it was"
    else
        not_ok "$1: the terminal is as it was" "$(cat "$work/$1.before" "$work/$1.after")" "$(cat "$out")"
    fi
}

script run "ferry run t --kernel $GUEST --append test=input --memory 32M"
on_terminal run
shows "input ready" && ok "the guest is on the terminal" || not_ok "the guest is on the terminal" "$(cat "$out")"
type_keys 'abc\r'
shows 'line="abc"' && ok "keys reach the guest" || not_ok "keys reach the guest" "$(cat "$out")"
type_keys '\003x\r'
shows 'length=2' && ok "Ctrl-C is the guest's" || not_ok "Ctrl-C is the guest's" "$(cat "$out")"
type_keys '\035'
shows 'k kill' && ok "Ctrl-] opens the menu" || not_ok "Ctrl-] opens the menu" "$(cat "$out")"
type_keys 's'
await is_state t paused && ok "the menu pauses" || not_ok "the menu pauses" "$(cat "$out")"
type_keys '\035s'
await is_state t running && ok "and resumes" || not_ok "and resumes" "$(cat "$out")"
type_keys '\035\035\r'
shows 'length=1 ' && ok "Ctrl-] twice is the guest's" || not_ok "Ctrl-] twice is the guest's" "$(cat "$out")"
type_keys '\035k'
shows 'status=1' && ok "the menu kills" || not_ok "the menu kills" "$(cat "$out")"
restored run
end_terminal

script crash "ferry run t --kernel $GUEST --append test=input --memory 32M"
on_terminal crash
shows "input ready"
kill -SEGV "$(ferry ps --format json | jq '.[0].pid')"
restored crash
end_terminal

run c input >/dev/null
script console "ferry console c"
on_terminal console
shows 'Ctrl-]'
type_keys 'hello\r'
shows 'line="hello"' && ok "console on a terminal" || not_ok "console on a terminal" "$(cat "$out")"
type_keys '\035q'
shows 'status=0' && ok "q leaves it" || not_ok "q leaves it" "$(cat "$out")"
restored console
end_terminal
check "the machine runs on" is_state c running

# ---- top on a small terminal ----
# What top has drawn, a line each, without its escape sequences.
drawn() { tr -d '\r' <"$out" | sed 's/\o33\[[HJ]//g; s/\o33.*//'; }
no_wide_line() { ! drawn | grep -E '^.{61,}$'; }
script top "ferry top --interval 200ms"
sed -i '1i stty cols 60 rows 4' "$work/top.sh"
on_terminal top
shows vcpu0 && ok "top on a small terminal" || not_ok "top on a small terminal" "$(cat "$out")"
check "draws no line that is wider" no_wide_line
type_keys v
check "v folds vCPUs" await sh -c "tail -c 150 '$out' | tr -d '\r' | grep -q '^c  ' && ! tail -c 150 '$out' | grep -q vcpu"
type_keys q
shows 'status=0' && ok "q ends it" || not_ok "q ends it" "$(cat "$out")"
restored top
end_terminal
finish
