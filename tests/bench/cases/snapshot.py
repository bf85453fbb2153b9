"""Snapshots to a file, and how long a restore takes until the command has returned."""

import json
import os
import resource
import shutil
import subprocess
import tempfile
import time

from harness import BUILD, FERRY, GUEST, LIMIT, Case, Metric
from link import FILL_LIMIT, run, wait_for, want_memory


def snapshot(memory, size):
    want_memory(memory, 2)
    folder = tempfile.mkdtemp(prefix="ferry-bench.", dir=BUILD)
    options = ["--runtime-dir", os.path.join(folder, "run")]
    file = os.path.join(folder, "snap")
    try:
        run(FERRY, "run", "bench", "--detach", *options, "--kernel", GUEST, "--append",
            f"test=pattern fill=random size={size} rate=1", "--memory", memory)
        wait_for(os.path.join(folder, "run/bench/console.log"), r"pattern ready", FILL_LIMIT)
        start = time.monotonic_ns()
        run(FERRY, "snapshot", "bench", file, *options)
        written = time.monotonic_ns()
        run(FERRY, "kill", "bench", *options)
        killed = time.monotonic_ns()
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        run(FERRY, "restore", "--detach", file, *options)
        restored = time.monotonic_ns()
        command = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        machine = json.loads(run(FERRY, "ps", "--format", "json", *options))[0]["pid"]
        with open(f"/proc/{machine}/schedstat", encoding="ascii") as file:
            main_thread = int(file.read().split()[0]) / 1e6
        return {"snapshot_ms": (written - start) / 1e6, "restore_ms": (restored - killed) / 1e6,
                "command_user_ms": command * 1000, "machine_cpu_ms": main_thread}
    finally:
        subprocess.run([FERRY, "kill", "bench", *options], capture_output=True, timeout=LIMIT, check=False)
        shutil.rmtree(folder, ignore_errors=True)


CASES = [
    Case("snapshot", "A snapshot to a file, and the restore of it until the command has returned", [
        Metric("snapshot_ms", "ms"), Metric("restore_ms", "ms"), Metric("command_user_ms", "ms", goal=5),
        Metric("machine_cpu_ms", "ms, user and kernel, KVM's set-up included")], {
            f"ferry, {memory}": lambda memory=memory, size=size: snapshot(memory, size)
            for memory, size in (("256M", "200M"), ("1G", "900M"), ("4G", "3600M"))}, rounds=5),
]
