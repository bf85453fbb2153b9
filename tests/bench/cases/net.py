"""virtio-net over taps in a network namespace of its own: two machines on a bridge, and one with the host's kernel."""

import os
import re
import subprocess

import peers
from harness import Case, Guest, Metric, Unavailable

SECONDS = 1
HOST, NEAR, FAR = "10.97.0.1", "10.97.0.2", "10.97.0.3"
TAPS = ("fb0", "fb1")
state = {"holder": None, "why": ""}


def inside(*command):
    return [*peers.inside_network(state["holder"].pid), *command]


def begin():
    """A bridge with an address, and two taps in it, where nobody else's traffic comes by."""
    state["why"] = ""
    try:
        state["holder"] = peers.network_holder()
        for command in (["link", "set", "lo", "up"], ["link", "add", "fb", "type", "bridge"],
                        ["address", "add", f"{HOST}/24", "dev", "fb"], ["link", "set", "fb", "up"],
                        *([word, *rest] for tap in TAPS for word, *rest in (
                            ["tuntap", "add", tap, "mode", "tap", "vnet_hdr"], ["link", "set", tap, "master", "fb"],
                            ["link", "set", tap, "up"]))):
            subprocess.run(inside("ip", *command), check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError, Unavailable) as why:
        state["why"] = f"no namespace with taps: {why}"


def end():
    if state["holder"]:
        state["holder"].kill()
        state["holder"].wait()
        state["holder"] = None


def ferry(append, tap):
    return peers.ferry(append, options=["--net", f"tap={TAPS[tap]}"])


def qemu(append, tap):
    return peers.qemu(peers.MICROVM_PCI, append, options=[
        "-netdev", f"tap,id=net,ifname={TAPS[tap]},script=no,downscript=no,vhost=off",
        "-device", f"virtio-net-pci,netdev=net,romfile=,mac=52:54:00:97:00:0{tap + 2}"])


def numbers(guest, pattern):
    found = [line for line in guest.output.splitlines() if re.search(pattern, line)]
    if not found:
        raise RuntimeError(f"{' '.join(guest.command)}: nothing like {pattern!r}: {guest.what_it_said()}")
    return {name.decode(): int(value) for name, value in re.findall(rb"(\w+)=(\d+)", found[-1])}


def start(command_of, append, tap, address):
    if state["why"]:
        raise Unavailable(state["why"])
    guest = Guest(["/usr/bin/env", *inside(*command_of(f"test=net ip={address} {append}", tap))])
    try:
        guest.wait_for(rb"net ready")
    except RuntimeError:
        guest.kill()
        raise
    return guest


def bulk(command_of, load):
    """From one machine to the other; what arrived counts, over the time from its first to its last frame."""
    receiver = start(command_of, "mode=receive", 1, FAR)
    try:
        sender = start(command_of, f"mode=send peer={FAR} gateway={FAR} seconds={SECONDS} {load}", 0, NEAR)
        sender.finish()
        sent = numbers(sender, rb"result=pass")
        receiver.wait_for(rb"net receive frames=\d+.*\n")
        while receiver.read(1.5) and b"\n" not in receiver.output[-1:]:
            pass
    except RuntimeError:
        if b"net receive frames" not in receiver.output:
            raise
    finally:
        receiver.kill()
    got = numbers(receiver, rb"net receive frames=")
    cpu = sum(g.usage.ru_utime + g.usage.ru_stime for g in (sender, receiver))
    return {"mb_per_s": got["mb_per_s"], "arrived_percent": 100 * got["bytes"] / max(1, sent["frames"] * sent["size"]),
            "cpu_us_a_mb": cpu * 1e12 / max(1, got["bytes"])}


def round_trip(command_of, peer, load):
    echo = start(command_of, "mode=echo", 1, FAR) if peer == FAR else None
    try:
        asking = start(command_of, f"mode=rtt peer={peer} gateway={peer} lost=1000 seconds={SECONDS} {load}", 0, NEAR)
        asking.finish()
    finally:
        if echo:
            echo.kill()
    found = numbers(asking, rb"result=pass")
    return {"trips_a_second": found["count"] / SECONDS, "p50_us": found["p50_us"], "p99_us": found["p99_us"]}


BULK = [Metric("mb_per_s", "MB/s", goal=(1.3, "qemu"), at_least=True), Metric("arrived_percent", "%"),
        Metric("cpu_us_a_mb", "us")]
TRIP = [Metric("trips_a_second", "1/s", goal=(1.3, "qemu"), at_least=True), Metric("p50_us", "us"), Metric("p99_us", "us")]


def case(name, title, metrics, measure, *arguments):
    return Case(f"net-{name}", f"Network: {title}", metrics,
                {"ferry": lambda: measure(ferry, *arguments), "qemu": lambda: measure(qemu, *arguments)},
                rounds=5, begin=begin, end=end)


CASES = [
    case("bulk", "datagrams of 1400 bytes from machine to machine, two taps on a bridge", BULK, bulk, ""),
    case("bulk-tso", "segments of up to 64 KiB from machine to machine, two taps on a bridge", BULK, bulk, "gso=1"),
    case("rtt", "round trips of 64 bytes between two machines", TRIP, round_trip, FAR, ""),
    case("rtt-host", "round trips of 64 bytes to the host's kernel (ICMP)", TRIP, round_trip, HOST, "proto=icmp"),
]
