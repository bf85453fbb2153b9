"""Stock Linux, from the command to its init. It needs a KVM that runs ring 0 natively: elsewhere it is measured in the
lab, where only the ratio means something."""

import os
import time

import peers
from harness import BUILD, Case, Guest, Metric, Unavailable

KERNEL = os.path.join(BUILD, "linux/vmlinuz")
INITRD = os.path.join(BUILD, "linux/initramfs.cpio.gz")
SILENCE = 300  # seconds: a kernel in a guest of an emulated host takes its time
# The init is one that says a word at once: what else ours does depends on which devices there are.
APPEND = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off cryptomgr.notests rdinit=/bin/echo here"


def measure(command):
    for path in (KERNEL, INITRD):
        if not os.path.exists(path):
            raise Unavailable(f"{path} isn't there (make linux)")
    guest = Guest(command)
    try:
        # Until that word, not the first byte: a kernel that misses a device says so before. Its own clock is no help:
        # where it has to find out how fast the TSC goes, it is wrong on an emulated host.
        guest.wait_for(b"here", SILENCE)
        return {"init_ms": (time.monotonic_ns() - guest.start) / 1e6}
    finally:
        guest.kill()


def qemu(machine):
    return lambda: measure(peers.qemu(machine, APPEND, "256M", ["-initrd", INITRD], KERNEL))


CASES = [
    Case("linux", "Boot of stock Linux, 1 vCPU, 256 MiB, serial console: to the first word of its init",
         [Metric("init_ms", "ms", goal=(1.0, "microvm"))],
         {"ferry": lambda: measure(peers.ferry(APPEND, "256M", ["--initrd", INITRD], KERNEL)),
          "microvm": qemu(peers.MICROVM_LINUX), "q35": qemu(peers.Q35)},
         needs_ring0=True),
]
