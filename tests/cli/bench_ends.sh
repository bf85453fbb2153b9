#!/bin/sh
# needs: kvm
# A benchmark that is killed takes along what it has started: machines that run detached, in a session of their own, too.
. "$(dirname "$0")/lib.sh"
if [ "$TEST_PLACE" = lab ] || ! command -v python3 >/dev/null; then
    skip "a benchmark's end" "no Python here"
    exit 0
fi

cat >"$work/bench.py" <<'PY'
import subprocess, sys, time
sys.path.insert(0, "tests/bench")
import harness
harness.take_along()
subprocess.run([harness.FERRY, "run", "left", "--detach", "--kernel", sys.argv[1], "--memory", "32M", "--append", "test=idle"],
               check=True)
other = subprocess.Popen(["sleep", "100000"])
print("other", other.pid, flush=True)
time.sleep(100000)
PY
not_running() { [ "$(state left)" != running ]; }
other_is_gone() { ! kill -0 "$(sed -n 's/^other //p' "$work/said")" 2>/dev/null; }
for signal in TERM KILL; do
    python3 -B "$work/bench.py" "$GUEST" >"$work/said" 2>&1 &
    bench=$!
    await grep -q '^other ' "$work/said"
    check "a benchmark's machine runs" is_state left running
    kill -$signal $bench
    check "SIG$signal to the benchmark ends it" await not_running
    check "and all else" await other_is_gone
    ferry kill left >/dev/null 2>&1
    ferry rm left >/dev/null 2>&1
done
finish
