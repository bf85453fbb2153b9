"""Placement on a simulated cluster of 1,000 hosts and 10,000 machines that come and go: time and quality."""

import json
import os
import subprocess

from harness import BUILD, Case, Metric, Unavailable

PROGRAM = os.path.join(BUILD, "tests/bench/placement_sim")
FIGURES = ("decision_us_mean", "decision_us_p99", "decision_us_max", "imbalance", "packed_ratio", "full_balanced",
           "full_packed")


def measure():
    if not os.path.exists(PROGRAM):
        raise Unavailable("placement_sim is not built (make placement-sim)")
    run = subprocess.run([PROGRAM], capture_output=True, text=True, check=True)
    result = json.loads(run.stdout)
    return {key: result[key] for key in FIGURES}


CASES = [
    Case("placement", "A decision of placement, 1,000 hosts and 10,000 machines",
         [Metric("decision_us_mean", "us", goal=1000), Metric("decision_us_p99", "us", goal=1000),
          Metric("decision_us_max", "us"), Metric("imbalance", ""), Metric("packed_ratio", ""),
          Metric("full_balanced", "", at_least=True), Metric("full_packed", "", at_least=True)],
         {"ferry": measure}, needs_kvm=False),
]
