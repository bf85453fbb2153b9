"""Two hosts with a cable between them, on this one: network namespaces, and what moves and their peers need there."""

import contextlib
import mmap
import os
import re
import shutil
import subprocess
import tempfile
import time

import peers
from harness import LIMIT, Unavailable

FILL_LIMIT = 300  # seconds until a guest has written all of its memory, on a busy host
ADDRESSES = ("10.98.0.1", "10.98.0.2")


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
            self.run(index, "ip", "address", "add", f"{ADDRESSES[index]}/24", "dev", device)
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


def run(*command, limit=LIMIT):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit, check=False)
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


def wait_for(path, pattern, limit=LIMIT):
    give_up = time.monotonic() + limit
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError):
            with open(path, encoding="utf-8", errors="replace") as file:
                if found := list(re.finditer(pattern, file.read())):
                    return found
        time.sleep(0.02)
    raise RuntimeError(f"{path}: no {pattern!r}")


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
