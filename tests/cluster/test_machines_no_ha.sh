#!/bin/sh
# Machines without a deadline (--no-ha): they run on when their host doesn't answer, are taken up
# again when it does, and start elsewhere only after a person has declared them or it dead.
# needs: kvm
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"

if ! hosts_start 3; then
    echo "not ok - three hosts form a cluster"
    show_logs
    exit 1
fi

# Where it is, and another host to ask.
find_home() {
    home=$(machine_field n host "$1" | tr -d h)
    ask=$((home % 3 + 1))
}

process_runs() { # HOST
    [ "$(on "$1" ps --format json | jq -r "[.. | objects | select(.name? == \"$uuid\" and .state == \"running\")] | length")" = 1 ]
}

is_again() { # EPOCH: it runs on its host, in that epoch, and the record is of a host that is alive
    machine_is n running "$ask" && [ "$(machine_field n epoch "$ask")" = "$1" ] &&
        [ "$(machine_field n host "$ask")" = "h$home" ]
}

is_elsewhere() { # HOST
    machine_runs_off n "h$1" "$ask"
}

host_state_is() { # HOST STATE
    [ "$(on "$ask" cluster hosts --format json | jq -r ".hosts[] | select(.name == \"h$1\") | .state")" = "$2" ]
}

quietly() {
    "$@" >/dev/null 2>&1
}

uuid=$(on 1 vm create n --no-ha --wait --kernel "$guest" --append "test=idle" --memory 64M --restart always)
on 1 vm create a --wait --kernel "$guest" --append "test=idle" --memory 64M --restart always >/dev/null
find_home 1
report "a machine without a deadline runs" test "$(machine_field n ha) $(machine_field a ha)" = "false true"
report "one whose host is alive can't be declared dead" says "is alive" on "$ask" vm declare-dead n --yes
report "nor can the host" says "is alive" on "$ask" cluster declare-dead "h$home" --yes
report "one that isn't there can't either" says "there is no machine" on "$ask" vm declare-dead nobody --yes
report "nor a host that isn't" says "there is no host" on "$ask" cluster declare-dead nobody --yes

epoch=$(machine_field n epoch "$ask")
isolate "$home"
check "a host that is cut off counts as dead" host_state_is "$home" dead
check "its machine is lost, with the reason" sh -c \
    "'$ferry' vm show n --runtime-dir '$work/run$ask' | grep -q 'reason.*without a deadline'"
report "and runs on there" process_runs "$home"
report "nobody is asked where nobody is" says "say --yes" on "$ask" vm declare-dead n </dev/null
report "nothing has changed by that" machine_is n lost "$ask"
heal
check "when the host is back it goes on, in the same epoch" is_again "$epoch"
check "the host is alive again" host_state_is "$home" alive

on "$ask" vm migrate n --wait >/dev/null
report "it moves to another host" test "$(machine_field n host "$ask")" != "h$home"
find_home "$ask"
epoch=$(machine_field n epoch "$ask")
ferryd_kill "$home"
check "its new host counts as dead without ferryd" host_state_is "$home" dead
report "it runs on there too" process_runs "$home"
ferryd_start "$home"
check "and is found again" is_again "$epoch"

power_off "$home"
check "a host without power counts as dead" host_state_is "$home" dead
check "its machine is lost" machine_is n lost "$ask"
since=$(on "$ask" vm ls --format json | jq .revision)
report "a person declares it dead" quietly on "$ask" vm declare-dead n --yes
check "then it runs elsewhere" is_elsewhere "$home"
report "the event is kept" sh -c \
    "'$ferry' vm events n --once --since $since --runtime-dir '$work/run$ask' | grep -q 'declared dead by a person'"
report "it isn't declared a second time" says "alive\|nothing to declare" on "$ask" vm declare-dead n --yes
report "one with a deadline is told to start by itself" says "by itself\|is alive\|on no host" on "$ask" vm declare-dead a --yes
host_boot "$home"
check "the host comes back" host_state_is "$home" alive

find_home "$ask"
power_off "$home"
check "its next host is lost as well" machine_is n lost "$ask"
since=$(on "$ask" vm ls --format json | jq .revision)
report "a person declares that host dead" quietly on "$ask" cluster declare-dead "h$home" --yes
check "and it runs elsewhere" is_elsewhere "$home"
report "that event is kept too" sh -c \
    "'$ferry' vm events --once --since $since --format json --runtime-dir '$work/run$ask' | grep -q declared-dead"
host_boot "$home"
check "that host comes back too" host_state_is "$home" alive

# A boot ends all processes: who comes back by one knows that they are gone.
find_home "$ask"
epoch=$(machine_field n epoch "$ask")
power_off "$home"
host_boot "$home"
started_anew() {
    machine_is n running "$ask" && [ "$(machine_field n epoch "$ask")" -gt "$epoch" ]
}
check "a machine whose host was booted starts there anew" started_anew

if witnesses; then
    echo "ok - no machine ran twice"
else
    echo "not ok - no machine ran twice"
    failed=1
fi
sed 's/^/# /' "$work/witnesses"
[ "$failed" = 0 ] || show_logs
exit 0
