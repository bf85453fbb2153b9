"""Speed of the cluster's simulator with all its checkers on, on one core."""

import json
import os
import subprocess

from harness import BUILD, Case, Metric, Unavailable

PROGRAM = os.path.join(BUILD, "tests/sim/raft_sim")


def measure():
    if not os.path.exists(PROGRAM):
        raise Unavailable("raft_sim is not built (make sim)")
    run = subprocess.run([PROGRAM, "--bench", "--seconds", "3"], capture_output=True, text=True, check=True)
    result = json.loads(run.stdout)
    # By CPU time the figure would be the same on a busy machine; by the clock it is what one waits for.
    return {key: result[key] for key in ("simulated_seconds_per_second", "steps_per_second", "operations_per_second")}


CASES = [
    Case("simulator", "Simulated cluster-seconds a second, one core",
         [Metric("simulated_seconds_per_second", "", goal=1000, at_least=True), Metric("steps_per_second", ""),
          Metric("operations_per_second", "")],
         {"ferry": measure}, needs_kvm=False),
]
