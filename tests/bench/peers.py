"""The command lines of ferry and of its peers, for the same guest with the same devices."""

import os
import shutil
import subprocess
import time

from harness import FERRY, GUEST, Unavailable

QEMU = shutil.which("qemu-system-x86_64")
QEMU_CPU = "host,-arch-capabilities"  # a guest that reads that MSR would be stopped on some KVMs


def ferry(append, memory="128M", options=(), kernel=GUEST):
    return [FERRY, "run", "--kernel", kernel, "--append", f"{append} exit=debug", "--memory", memory, "--debug-exit",
            *options]


def qemu(machine, append, memory="128M", options=(), kernel=GUEST):
    if not QEMU:
        raise Unavailable("qemu-system-x86_64 is not installed")
    return [QEMU, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-M", machine, "-accel", "kvm",
            "-cpu", QEMU_CPU, "-m", memory, "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4",
            "-kernel", kernel, "-append", f"{append} exit=debug", *options]


MICROVM = "microvm,x-option-roms=off,pit=off,pic=off,rtc=off"
# A stock kernel finds its timer by the PIT and its interrupts by the PIC first, and waits for seconds for an RTC that
# isn't there.
MICROVM_LINUX = "microvm,x-option-roms=off,rtc=on"
MICROVM_PCI = MICROVM + ",pcie=on"
Q35 = "q35"


def network_holder():
    """A process in a network namespace of its own, which lives as long as that process."""
    if os.geteuid() != 0:
        raise Unavailable("network namespaces want root")
    process = subprocess.Popen(["unshare", "-n", "sleep", "100000"], stdout=subprocess.DEVNULL)
    own = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{process.pid}/ns/net") == own:
        if process.poll() is not None:
            raise Unavailable("no network namespaces here")
        time.sleep(0.01)
    return process


def inside_network(pid):
    return ["nsenter", "-t", str(pid), "-n"]
