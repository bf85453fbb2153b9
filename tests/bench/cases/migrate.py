"""Moves between two network namespaces, over a link of 1 Gbit/s (TBF) and over one that nothing shapes, beside QEMU."""

import contextlib
import json
import mmap
import os
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import time

import peers
from harness import BUILD, FERRY, GUEST, Case, Metric, Unavailable

LINK = 125_000_000  # bytes a second
LIMIT = 60
ADDRESS = "10.98.0.2"


class Hosts:
    """Two network namespaces with a cable between them; `rate` (bits a second) shapes both directions."""

    def __init__(self, rate):
        if os.geteuid() != 0:
            raise Unavailable("network namespaces want root")
        self.folder = tempfile.mkdtemp(prefix="ferry-bench.")
        self.processes = []
        self.pids = [self.new_namespace() for _ in "ab"]
        run("ip", "link", "add", "ferrybench0", "netns", str(self.pids[0]), "type", "veth", "peer", "name", "ferrybench1",
            "netns", str(self.pids[1]))
        for index, pid in enumerate(self.pids):
            device = f"ferrybench{index}"
            self.run(index, "ip", "link", "set", "lo", "up")
            self.run(index, "ip", "address", "add", f"10.98.0.{index + 1}/24", "dev", device)
            self.run(index, "ip", "link", "set", device, "up")
            if rate:
                self.run(index, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{rate}bit", "burst", "1mb",
                         "latency", "20ms")
        self.sides = [os.path.join(self.folder, side) for side in "ab"]
        for side in self.sides:
            os.mkdir(side)

    def new_namespace(self):
        process = peers.network_holder()
        self.processes.append(process)
        return process.pid

    def command(self, index, *command):
        return [*peers.inside_network(self.pids[index]), *command]

    def run(self, index, *command):
        return run(*self.command(index, *command))

    def start(self, index, *command, **options):
        process = subprocess.Popen(self.command(index, *command), stdin=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def close(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def want_memory(size, machines):
    """`size` as for --memory; each machine's RAM is written to in full."""
    with open("/proc/meminfo", encoding="ascii") as file:
        available = int(re.search(r"MemAvailable:\s+(\d+)", file.read()).group(1)) << 10
    wanted = machines * (int(size[:-1]) << {"M": 20, "G": 30}[size[-1]]) + (256 << 20)
    if available < wanted:
        raise Unavailable(f"{wanted >> 20} MiB of memory are wanted, {available >> 20} are there")


def warm_memory(size):
    """A host that is itself a guest may have given its free memory back to its own host, which returns it page by page,
    many times slower than the move that is measured. So what the target will need is touched, and free again, right
    before: for each subject alike."""
    length = (int(size[:-1]) << {"M": 20, "G": 30}[size[-1]]) + (64 << 20)
    with mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, length, mmap.PAGESIZE):
            memory[at] = 1


def wait_for(path, pattern):
    give_up = time.monotonic() + LIMIT
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            with open(path, encoding="utf-8", errors="replace") as file:
                if found := list(re.finditer(pattern, file.read())):
                    return found
        time.sleep(0.02)
    raise RuntimeError(f"{path}: no {pattern!r}")


class Work:
    """What the guest does: `ready` is what it says when its memory is as wanted."""

    def __init__(self, append, memory, ready, downtime_ms=300, asked=0):
        self.append, self.memory, self.ready, self.downtime_ms, self.asked = append, memory, ready, downtime_ms, asked

    def written(self, consoles):
        """MB/s that the guest wrote from the last line before the move to the first after it."""
        lines = [[(int(ms), int(pages)) for ms, pages in re.findall(r"dirty ms=(\d+) pages=(\d+) ", text)]
                 for text in consoles]
        if not lines[0] or not lines[1]:
            return {}
        (from_ms, from_pages), (to_ms, to_pages) = lines[0][-1], lines[1][0]
        return {"guest_share": (to_pages - from_pages) * 4.096 / max(1, to_ms - from_ms) / self.asked} if self.asked else {}


# ---- ferry ----


def certificates(folder):
    """A CA and a certificate of it, for both sides."""
    if not shutil.which("openssl"):
        raise Unavailable("no openssl to make certificates with")
    path = {name: os.path.join(folder, name) for name in ("ca.key", "ca.pem", "key", "csr", "pem")}
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run("openssl", "req", "-x509", *key, "-days", "2", "-subj", "/CN=ca", "-keyout", path["ca.key"], "-out", path["ca.pem"])
    run("openssl", "req", *key, "-subj", "/CN=host", "-keyout", path["key"], "-out", path["csr"])
    run("openssl", "x509", "-req", "-in", path["csr"], "-CA", path["ca.pem"], "-CAkey", path["ca.key"], "-CAcreateserial",
        "-days", "2", "-out", path["pem"])
    return ["--tls-cert", path["pem"], "--tls-key", path["key"], "--tls-ca", path["ca.pem"]]


def console_of(side):
    path = os.path.join(side, "bench/console.log")
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def ferry(rate, work, streams, tls=False, options=()):
    want_memory(work.memory, 2)
    hosts = Hosts(rate)
    try:
        options = [*options, *(certificates(hosts.folder) if tls else [])]
        run(*hosts.command(0, FERRY, "run", "bench", "--detach", "--runtime-dir", hosts.sides[0], "--kernel", GUEST, "--append",
                           work.append, "--memory", work.memory))
        wait_for(os.path.join(hosts.sides[0], "bench/console.log"), work.ready)
        said = os.path.join(hosts.folder, "said")
        with open(said, "w", encoding="utf-8") as out:
            hosts.start(1, FERRY, "receive", "--runtime-dir", hosts.sides[1], "--listen",
                        f"{'tls' if tls else 'tcp'}://{ADDRESS}:0", *([] if tls else ["--insecure"]),
                        *(options if tls else []), stdout=out, stderr=out)
        place = wait_for(said, r"listening at (\S+)\n")[0].group(1)
        warm_memory(work.memory)
        status = json.loads(run(*hosts.command(
            0, FERRY, "migrate", "bench", place, "--runtime-dir", hosts.sides[0], "--streams", str(streams), "--downtime",
            f"{work.downtime_ms}ms", "--timeout", "100s", "--format", "json", *options)))
        result = figures(status["bytes"], status["elapsed_ms"], status["downtime_us"] / 1000, rate)
        if work.asked:
            wait_for(os.path.join(hosts.sides[1], "bench/console.log"), r"dirty ms=\d+ pages=\d+ ")
            result.update(work.written([console_of(side) for side in hosts.sides]))
        return result
    finally:
        for side in hosts.sides:
            subprocess.run([FERRY, "kill", "bench", "--runtime-dir", side], capture_output=True, timeout=LIMIT, check=False)
        hosts.close()


def figures(moved, total_ms, downtime_ms, rate):
    result = {"total_ms": total_ms, "downtime_ms": downtime_ms, "mb_per_s": moved / total_ms / 1000}
    if rate:
        result["link_share"] = moved / (total_ms / 1000) / LINK
    return result


# ---- QEMU, by its own protocol ----


class Qmp:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw", encoding="utf-8")
        self.file.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise RuntimeError(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def start_qemu(hosts, index, work, incoming=()):
    side = hosts.sides[index]
    command = peers.qemu(peers.MICROVM, work.append, work.memory)
    command[command.index("stdio")] = f"file:{side}/console"
    hosts.start(index, *command, "-qmp", f"unix:{side}/qmp,server=on,wait=off", *incoming, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + LIMIT
    while True:
        try:
            return Qmp(f"{side}/qmp")
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def qemu(rate, work, streams, converge=False):
    want_memory(work.memory, 2)
    hosts = Hosts(rate)
    try:
        source = start_qemu(hosts, 0, work)
        wait_for(f"{hosts.sides[0]}/console", work.ready)
        target = start_qemu(hosts, 1, work, ["-incoming", "defer"])
        for side in source, target:
            side.call("migrate-set-capabilities", capabilities=[
                {"capability": "multifd", "state": streams > 1}, {"capability": "auto-converge", "state": converge}])
            if streams > 1:
                side.call("migrate-set-parameters", **{"multifd-channels": streams})
        source.call("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": work.downtime_ms})
        target.call("migrate-incoming", uri=f"tcp:{ADDRESS}:4444")
        warm_memory(work.memory)
        source.call("migrate", uri=f"tcp:{ADDRESS}:4444")
        give_up = time.monotonic() + LIMIT
        while (status := source.call("query-migrate"))["status"] not in ("completed", "failed"):
            if time.monotonic() > give_up:
                raise RuntimeError(f"QEMU: not done after {LIMIT} s: {status['status']}")
            time.sleep(0.02)
        if status["status"] == "failed":
            raise RuntimeError(f"QEMU: {status}")
        result = figures(status["ram"]["transferred"], status["total-time"], status["downtime"], rate)
        if work.asked:
            wait_for(f"{hosts.sides[1]}/console", r"dirty ms=\d+ pages=\d+ ")
            result.update(work.written([open(f"{side}/console", encoding="utf-8", errors="replace").read()
                                        for side in hosts.sides]))
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


SPEED = [Metric("mb_per_s", "MB/s"), Metric("total_ms", "ms"), Metric("downtime_ms", "ms")]


def beside(rate, work, metrics, name, title):
    return Case(name, title, metrics, {
        "ferry, 1": lambda: ferry(rate, work, 1), "qemu, 1": lambda: qemu(rate, work, 1),
        "ferry, 4": lambda: ferry(rate, work, 4), "qemu, 4": lambda: qemu(rate, work, 4),
        "ferry, TLS, 1": lambda: ferry(rate, work, 1, tls=True), "ferry, TLS, 4": lambda: ferry(rate, work, 4, tls=True),
    }, rounds=5)


def under_load(percent):
    work = writer(LINK * percent // 100 // 1_000_000)
    return Case(f"migrate-writer-{percent}",
                f"A move over 1 Gbit/s of a guest that writes {percent} % of that to 256 MiB; 300 ms of downtime allowed",
                [Metric("total_ms", "ms"), Metric("downtime_ms", "ms", goal=300),
                 Metric("guest_share", "of what it wanted to write")], {
                     "ferry": lambda: ferry(8 * LINK, work, 1, options=["--throttle", "99"]),
                     "qemu": lambda: qemu(8 * LINK, work, 1, converge=True),
                 }, rounds=3)


# ---- snapshots ----


def snapshot(memory, size):
    want_memory(memory, 2)
    folder = tempfile.mkdtemp(prefix="ferry-bench.", dir=BUILD)
    options = ["--runtime-dir", os.path.join(folder, "run")]
    file = os.path.join(folder, "snap")
    try:
        run(FERRY, "run", "bench", "--detach", *options, "--kernel", GUEST, "--append",
            f"test=pattern fill=random size={size} rate=1", "--memory", memory)
        wait_for(os.path.join(folder, "run/bench/console.log"), r"pattern ready")
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
    beside(0, idle("400M", "512M"), SPEED, "migrate-unshaped",
           "A move of 400 MiB of noise over a link that nothing shapes; connections: 1 or 4"),
    beside(8 * LINK, idle("400M", "512M"), [Metric("link_share", "of the link", goal=0.95, at_least=True), *SPEED[1:]],
           "migrate-1gbit", "A move of 400 MiB of noise over 1 Gbit/s"),
    Case("migrate-downtime", "A move of an idle guest: how long it stands, 10 ms allowed", [
        Metric("downtime_ms", "ms", goal=10), Metric("total_ms", "ms")], {
            "256M": lambda: ferry(0, idle("200M", "256M", 10), 1), "1G": lambda: ferry(0, idle("900M", "1G", 10), 1),
            "4G": lambda: ferry(0, idle("3600M", "4G", 10), 1)}, rounds=5),
    *[under_load(percent) for percent in (25, 50, 100, 200)],
    Case("snapshot", "A snapshot to a file, and the restore of it until the command has returned", [
        Metric("snapshot_ms", "ms"), Metric("restore_ms", "ms"), Metric("command_user_ms", "ms", goal=5),
        Metric("machine_cpu_ms", "ms, user and kernel, KVM's set-up included")], {
            "256M": lambda: snapshot("256M", "200M"), "1G": lambda: snapshot("1G", "900M"),
            "4G": lambda: snapshot("4G", "3600M")}, rounds=3),
]
