"""Memory of the hypervisor's process without the guest's RAM: 1 vCPU, 128 MiB, disk, network card, console."""

import os
import subprocess
import tempfile

import peers
from harness import Case, Guest, Metric, memory_of, output_of

RAM = 128 << 20
DISK_BYTES = 16 << 20
TAPS = {"ferry": f"fb{os.getpid() % 100000}a", "microvm": f"fb{os.getpid() % 100000}b"}
state = {"disk": None, "taps": False}


def begin():
    with tempfile.NamedTemporaryFile(prefix="ferry-bench-disk-", delete=False) as disk:
        disk.truncate(DISK_BYTES)
        state["disk"] = disk.name
    state["taps"] = all(subprocess.run(["ip", "tuntap", "add", "dev", tap, "mode", "tap"], capture_output=True,
                                       check=False).returncode == 0 for tap in TAPS.values())
    if not state["taps"]:
        print("memory: without a network card, as no tap can be made here (needs root)", flush=True)


def end():
    os.unlink(state["disk"])
    for tap in TAPS.values():
        output_of("ip", "link", "delete", tap)


def ferry(append):
    net = ["--net", f"tap={TAPS['ferry']}"] if state["taps"] else []
    return peers.ferry(append, options=["--disk", state["disk"], *net])


def microvm(append):
    net = ["-netdev", f"tap,id=net,ifname={TAPS['microvm']},script=no,downscript=no,vhost=off",
           "-device", "virtio-net-pci,netdev=net,romfile="] if state["taps"] else []
    return peers.qemu(peers.MICROVM_PCI, append, options=[
        "-drive", f"file={state['disk']},format=raw,if=none,id=disk", "-device", "virtio-blk-pci,drive=disk",
        "-device", "virtio-serial-pci", "-chardev", "null,id=console", "-device", "virtconsole,chardev=console", *net])


def measure(command_of):
    """Once with a guest that uses no device, once with one that is reading and writing its disk."""
    result = {}
    for name, append, until in (("idle", "test=idle", rb"idle beat=2"), ("disk", "test=blk mode=loop", rb"blk loop req")):
        guest = Guest(command_of(append))
        try:
            guest.wait_for(until)
            total, largest = memory_of(guest.pid, RAM)
        finally:
            guest.kill()
        for key in ("pss", "private", "rss"):
            result[f"{name}_{key}_kib"] = total[key]
        result[f"{name}_parts"] = largest
    return result


CASES = [
    Case("memory", "Memory of the process without the guest's RAM, 1 vCPU, 128 MiB, blk + net + console",
         [Metric("idle_pss_kib", "KiB", goal=2048), Metric("idle_private_kib", "KiB"), Metric("idle_rss_kib", "KiB"),
          Metric("disk_pss_kib", "KiB", goal=2048), Metric("disk_private_kib", "KiB")],
         {"ferry": lambda: measure(ferry), "microvm": lambda: measure(microvm)}, rounds=3, begin=begin, end=end),
]
