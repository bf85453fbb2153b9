"""What an access costs that the hypervisor's process answers: out of the guest, to user space and back."""

import os
import re

import peers
from harness import Case, Guest, Metric

MODES = ("port-write", "port-read", "serial", "memory-write", "memory-read")


def append():
    return f"test=exits count={os.environ.get('BENCH_EXITS', '20000')}"


def measure(command):
    guest = Guest(command)
    guest.finish()
    found = re.findall(rb"exits mode=(\S+) count=\d+ mean_ns=(\d+) best_ns=(\d+)", guest.output)
    result = {}
    for mode, mean, best in found:
        result[f"{mode.decode()}_mean_ns"] = int(mean)
        result[f"{mode.decode()}_best_ns"] = int(best)
    return result


CASES = [
    Case("exits", "One exit to user space and back, as the guest sees it",
         [Metric(f"{mode}_{kind}_ns", "ns", goal=(1.0, "microvm") if kind == "mean" else None)
          for mode in MODES for kind in ("mean", "best")],
         {"ferry": lambda: measure(peers.ferry(append())),
          "microvm": lambda: measure(peers.qemu(peers.MICROVM, append()))}),
]
