"""Moves between two network namespaces, over a link of 1 Gbit/s (TBF) and over one that nothing shapes, beside QEMU."""

import json
import os
import re
import subprocess
import time

from harness import FERRY, GUEST, LIMIT, Case, Metric
from libvirt_peer import Daemons
from link import ADDRESSES, FILL_LIMIT, Hosts, certificates, run, wait_for, want_memory, warm_memory

LINK = 125_000_000  # bytes a second
REPORT = r"dirty ms=(\d+) pages=(\d+) "  # the writer's, each second


class Work:
    """What the guest does: `ready` is what it says when its memory is as wanted; `asked` MB/s are written by it."""

    def __init__(self, append, memory, ready, downtime_ms=300, asked=0):
        self.append, self.memory, self.ready, self.downtime_ms, self.asked = append, memory, ready, downtime_ms, asked

    def written(self, before, after):
        """What the guest wrote from the last line before the move to the first after it, by its console."""
        lines = [[(int(ms), int(pages)) for ms, pages in re.findall(REPORT, text)] for text in (before, after)]
        if not self.asked or not lines[0] or not lines[1]:
            return {}
        (from_ms, from_pages), (to_ms, to_pages) = lines[0][-1], lines[1][0]
        result = {"guest_share": (to_pages - from_pages) * 4.096 / max(1, to_ms - from_ms) / self.asked}
        if len(lines[0]) > 2:  # what a GiB took it before, on this host as busy as it is
            before_ms, before_pages = lines[0][-3]
            result["slowdown_ms_per_gib"] = (gib_ms(to_ms - from_ms, to_pages - from_pages) -
                                             gib_ms(from_ms - before_ms, from_pages - before_pages))
        return result


def gib_ms(took_ms, pages):
    return took_ms / (max(1, pages) * 4096) * (1 << 30)


def figures(moved, total_ms, downtime_ms, command_ms, rate):
    result = {"total_ms": total_ms, "downtime_ms": downtime_ms, "command_ms": command_ms,
              "mb_per_s": moved / total_ms / 1000}
    if rate:
        result["link_share"] = moved / (total_ms / 1000) / LINK
    return result


def console_text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def ferry(rate, work, streams, tls=False, options=()):
    want_memory(work.memory, 2)
    hosts = Hosts(rate)
    consoles = [os.path.join(side, "bench/console.log") for side in hosts.sides]
    try:
        keys = certificates(hosts.folder) if tls else []
        run(*hosts.command(0, FERRY, "run", "bench", "--detach", "--runtime-dir", hosts.sides[0], "--kernel", GUEST, "--append",
                           work.append, "--memory", work.memory))
        wait_for(consoles[0], work.ready, FILL_LIMIT)
        said = os.path.join(hosts.folder, "said")
        with open(said, "w", encoding="utf-8") as out:
            hosts.start(1, FERRY, "receive", "--runtime-dir", hosts.sides[1], "--listen",
                        f"{'tls' if tls else 'tcp'}://{ADDRESSES[1]}:0", *(keys or ["--insecure"]), stdout=out, stderr=out)
        place = wait_for(said, r"listening at (\S+)\n")[0].group(1)
        warm_memory(work.memory)
        began = time.monotonic_ns()
        status = json.loads(run(*hosts.command(
            0, FERRY, "migrate", "bench", place, "--runtime-dir", hosts.sides[0], "--streams", str(streams), "--downtime",
            f"{work.downtime_ms}ms", "--timeout", "100s", "--format", "json", *keys, *options), limit=10 * LIMIT))
        result = figures(status["bytes"], status["elapsed_ms"], status["downtime_us"] / 1000,
                         (time.monotonic_ns() - began) / 1e6, rate)
        if work.asked:
            wait_for(consoles[1], REPORT)
            result.update(work.written(*[console_text(path) for path in consoles]))
        return result
    finally:
        for side in hosts.sides:
            subprocess.run([FERRY, "kill", "bench", "--runtime-dir", side], capture_output=True, timeout=LIMIT, check=False)
        hosts.close()


def qemu(rate, work, streams, tls=False, converge=False):
    want_memory(work.memory, 2)
    hosts = Hosts(rate)
    try:
        options = {"streams": streams, "converge": int(converge), "downtime_ms": work.downtime_ms}
        if tls:
            certificates(hosts.folder)
            options.update(tls=1, tls_name="host")
        daemons = Daemons(hosts, tls)
        daemons.start(work.append, work.memory)
        wait_for(daemons.consoles[0], work.ready, FILL_LIMIT)
        warm_memory(work.memory)
        stats = daemons.move(**options)
        result = figures(stats["data_processed"], stats["qemu_ms"], stats["downtime"], stats["call_ms"], rate)
        if work.asked:
            wait_for(daemons.consoles[1], REPORT)
            result.update(work.written(*[console_text(path) for path in daemons.consoles]))
        return result
    finally:
        hosts.close()


# ---- the cases ----


def idle(size, memory, downtime_ms=300):
    """Memory full of noise, and a guest that writes next to nothing."""
    return Work(f"test=pattern fill=random size={size} rate=1", memory, r"pattern ready", downtime_ms)


def writer(megabytes_a_second):
    return Work(f"test=dirty size=256M rate={megabytes_a_second} seconds=0", "512M", r"(dirty ms=[^\n]*\n[^\n]*){4}",
                asked=megabytes_a_second)


SHARE = Metric("link_share", "of the link", goal=0.95, at_least=True)
TIMES = [Metric("total_ms", "ms"), Metric("downtime_ms", "ms"), Metric("command_ms", "ms, the peer's with the target's start")]


def beside(rate, work, metrics, name, title):
    """Each of both with 1 and 4 connections, plain and by TLS."""
    subjects = {}
    for suffix, streams, tls in ((", 1", 1, False), (", 4", 4, False), (", TLS, 1", 1, True), (", TLS, 4", 4, True)):
        for subject, move in (("ferry", ferry), ("qemu", qemu)):
            subjects[subject + suffix] = lambda move=move, streams=streams, tls=tls: move(rate, work, streams, tls=tls)
    return Case(name, title, metrics, subjects, rounds=5)


def under_load(percent):
    work = writer(LINK * percent // 100 // 1_000_000)
    return Case(f"migrate-writer-{percent}",
                f"A move over 1 Gbit/s of a guest that writes {percent} % of that to 256 MiB; 300 ms of downtime allowed",
                [TIMES[0], Metric("downtime_ms", "ms", goal=300), Metric("guest_share", "of what it wanted to write"),
                 Metric("slowdown_ms_per_gib", "ms more for each GiB written", goal=(1, "qemu"))], {
                     "ferry": lambda: ferry(8 * LINK, work, 1, options=["--throttle", "99"]),
                     "qemu": lambda: qemu(8 * LINK, work, 1, converge=True),
                 }, rounds=3)


def sizes():
    """Idle guests of several sizes, 10 ms of downtime allowed."""
    subjects = {}
    for memory, size in (("256M", "200M"), ("1G", "900M"), ("4G", "3600M")):
        for subject, move in (("ferry", ferry), ("qemu", qemu)):
            subjects[f"{subject}, {memory}"] = lambda move=move, memory=memory, size=size: move(
                0, idle(size, memory, 10), 1)
    return subjects


CASES = [
    beside(0, idle("400M", "512M"), [Metric("mb_per_s", "MB/s", goal=(1.5, "qemu"), at_least=True), *TIMES],
           "migrate-unshaped", "A move of 400 MiB of noise over a link that nothing shapes; connections: 1 or 4"),
    beside(8 * LINK, idle("400M", "512M"), [SHARE, *TIMES], "migrate-1gbit", "A move of 400 MiB of noise over 1 Gbit/s"),
    Case("migrate-downtime", "A move of an idle guest: how long it stands, 10 ms allowed", [
        Metric("downtime_ms", "ms", goal=10), Metric("total_ms", "ms"), Metric("mb_per_s", "MB/s")], sizes(), rounds=5),
    *[under_load(percent) for percent in (25, 50, 100, 200)],
]
