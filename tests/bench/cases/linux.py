"""Stock Linux, from the command to its init. It needs a KVM that runs ring 0 natively: elsewhere it is measured in the
lab, where only the ratio means something."""

import os
import re

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
        # The kernel is quiet, so the first byte is its init's. Its own clock is no help: where it has to find out
        # how fast the TSC goes, it is wrong on an emulated host.
        guest.wait_for(b"here", SILENCE)
        return {"first_line_ms": (guest.first_byte - guest.start) / 1e6}
    finally:
        guest.kill()


def linux(command):
    """The same command with Linux in place of the test guest."""
    replaced = {"-kernel": KERNEL, "--kernel": KERNEL, "-append": APPEND, "--append": APPEND}
    out = [replaced.get(before, word) for before, word in zip([None, *command], command)]
    return out + [{"--kernel": "--initrd", "-kernel": "-initrd"}[next(w for w in command if re.fullmatch("--?kernel", w))],
                  INITRD]


CASES = [
    Case("linux", "Boot of stock Linux, 1 vCPU, 256 MiB, serial console: to the first line of its init",
         [Metric("first_line_ms", "ms", goal=(1.0, "microvm"))],
         {"ferry": lambda: measure(linux(peers.ferry("", memory="256M"))),
          "microvm": lambda: measure(linux(peers.qemu(peers.MICROVM_LINUX, "", memory="256M"))),
          "q35": lambda: measure(linux(peers.qemu(peers.Q35, "", memory="256M")))},
         needs_ring0=True),
]
