"""From the command to the guest's first byte and to the end, and what the start costs."""

import collections
import re
import shutil
import tempfile

import peers
from harness import Case, Guest, Metric, Unavailable


def measure(command):
    guest = Guest(command)
    guest.finish()
    return {"first_byte_ms": (guest.first_byte - guest.start) / 1e6, "exit_ms": (guest.ended - guest.start) / 1e6,
            "cpu_ms": (guest.usage.ru_utime + guest.usage.ru_stime) * 1e3, "page_faults": guest.usage.ru_minflt}


def count_calls(command):
    """System calls of all threads, from exec to the end. Slows the start down, hence apart from its times."""
    strace = shutil.which("strace")
    if not strace:
        raise Unavailable("strace is not installed")
    with tempfile.NamedTemporaryFile("r", prefix="ferry-bench-") as log:
        guest = Guest([strace, "-f", "-qq", "-o", log.name, *command])
        guest.finish()
        names = collections.Counter(re.findall(r"^\d+ +(\w+)\(", log.read(), re.M))
    vcpu = sum(count for name, count in names.items() if name == "ioctl")
    return {"calls": sum(names.values()), "files_opened": names["openat"] + names["open"],
            "maps": names["mmap"] + names["mprotect"] + names["munmap"], "ioctls": vcpu}


HELLO = "test=hello"
COMMANDS = {"ferry": lambda: peers.ferry(HELLO), "microvm": lambda: peers.qemu(peers.MICROVM, HELLO),
            "q35": lambda: peers.qemu(peers.Q35, HELLO)}


def subjects(measurement):
    return {name: lambda command=command: measurement(command()) for name, command in COMMANDS.items()}


CASES = [
    Case("start", "Start of a machine with the test guest, 1 vCPU, 128 MiB",
         [Metric("first_byte_ms", "ms", goal=(0.5, "microvm")), Metric("exit_ms", "ms", goal=(0.5, "microvm")),
          Metric("cpu_ms", "ms"), Metric("page_faults", "")],
         subjects(measure)),
    Case("start-calls", "System calls from the command to the end",
         [Metric("calls", ""), Metric("files_opened", ""), Metric("maps", ""), Metric("ioctls", "")],
         subjects(count_calls), rounds=1),
]
