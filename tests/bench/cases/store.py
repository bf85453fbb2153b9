"""The store beside etcd on the same disk: durable puts, linearizable reads, watches, memory, and a leader's death.

A subject's members run as long as its cases do; what is measured is measured in turns. Both have time-outs of 150 to
300 ms (etcd: a heartbeat of 50 ms and an election of 250)."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from harness import BUILD, Case, Metric, Unavailable

LOAD = os.path.join(BUILD, "tests/bench/store_load")
FERRYD = os.path.join(BUILD, "ferryd")
FERRY = os.path.join(BUILD, "ferry")
SECONDS = "2"


class Members:
    """`count` members of one system, each with its directory, on loopback."""

    def __init__(self, system, count, folder, base):
        self.system, self.count, self.folder, self.base, self.processes = system, count, folder, base, {}
        if system == "etcd" and not shutil.which("etcd"):
            raise Unavailable("etcd is not installed (scripts/setup bench)")
        for number in range(1, count + 1):
            self.start(number)
            if system == "ferry":
                self.wait(self.voters(number))
        self.wait(lambda: self.leader() is not None)

    def client(self, number):
        return f"127.0.0.1:{self.base + number}"

    def clients(self):
        return ",".join(self.client(number) for number in range(1, self.count + 1))

    def start(self, number):
        data, peer = os.path.join(self.folder, f"{self.system}{number}"), self.base + 50
        if self.system == "ferry":
            command = [FERRYD, "--store-only", "--data", data, "--name", f"m{number}", "--log-level", "error",
                       "--listen-peer", f"127.0.0.1:{peer + number}", "--listen-client", self.client(number),
                       "--heartbeat", "50ms", "--election", "150ms-300ms"]
            if number == 1:
                command.append("--found")
            elif not os.path.exists(data):
                token = subprocess.run([FERRY, "store", "members", "token", "--store", self.clients()],
                                       capture_output=True, text=True, check=True).stdout.strip()
                command += ["--join", f"{token}@{self.client(1)}"]
        else:
            cluster = ",".join(f"m{i}=http://127.0.0.1:{peer + i}" for i in range(1, self.count + 1))
            command = ["etcd", "--name", f"m{number}", "--data-dir", data, "--logger", "zap", "--log-level", "error",
                       "--listen-client-urls", f"http://{self.client(number)}",
                       "--advertise-client-urls", f"http://{self.client(number)}",
                       "--listen-peer-urls", f"http://127.0.0.1:{peer + number}",
                       "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer + number}",
                       "--initial-cluster", cluster, "--initial-cluster-state", "new",
                       "--heartbeat-interval", "50", "--election-timeout", "250"]
        self.processes[number] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def voters(self, count):
        def there():
            members = self.members()
            return sum(member["role"] in ("leader", "voter") for member in members) == count
        return there

    def members(self):
        run = subprocess.run([FERRY, "store", "members", "--format", "json", "--timeout", "2s", "--store", self.clients()],
                             capture_output=True, text=True, check=False)
        return json.loads(run.stdout)["members"] if run.returncode == 0 else []

    def leader(self):
        if self.system == "ferry":
            return next((int(member["name"][1:]) for member in self.members() if member["role"] == "leader"), None)
        for number in self.processes:
            run = subprocess.run(["etcdctl", "--endpoints", self.client(number), "endpoint", "status", "-w", "json"],
                                 capture_output=True, text=True, check=False, env=dict(os.environ, ETCDCTL_API="3"))
            if run.returncode == 0:
                status = json.loads(run.stdout)[0]["Status"]
                if status["leader"] and status["leader"] == status["header"]["member_id"]:
                    return number
        return None

    def wait(self, what, limit=60):
        end = time.monotonic() + limit
        while not what():
            if time.monotonic() > end:
                raise RuntimeError(f"{self.system}: {self.count} members didn't come up")
            time.sleep(0.1)

    def kill(self, number):
        self.processes[number].send_signal(signal.SIGKILL)
        self.processes.pop(number).wait()

    def memory(self):
        kib = 0
        for process in self.processes.values():
            with open(f"/proc/{process.pid}/smaps_rollup", encoding="utf-8") as file:
                kib += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        return kib

    def stop(self):
        for number in list(self.processes):
            self.kill(number)


class Field:
    """Where the members of both systems live while a case runs."""

    def __init__(self, count):
        self.count, self.folder, self.systems = count, None, {}

    def begin(self):
        self.folder = tempfile.mkdtemp(prefix="store-bench.", dir=BUILD)

    def of(self, system):
        if not os.path.exists(LOAD):
            raise Unavailable("store_load is not built (needs libnghttp2-dev: scripts/setup bench)")
        if system not in self.systems:
            self.systems[system] = Members(system, self.count, self.folder, 17000 if system == "ferry" else 17200)
        return self.systems[system]

    def end(self):
        for members in self.systems.values():
            members.stop()
        self.systems = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def load(self, system, work, clients, seconds=SECONDS):
        members = self.of(system)
        # etcd's client here knows one address: the leader's, where it needs no second hop either.
        address = members.clients() if system == "ferry" or work == "gap" else members.client(members.leader())
        run = subprocess.run([LOAD, system, address, work, str(clients), seconds], capture_output=True, text=True,
                             check=True, timeout=120)
        return json.loads(run.stdout)


def load_case(work, clients, count, title, goals=True):
    field = Field(count)

    def measure(system):
        result = field.load(system, work, clients)
        if result["errors"]:
            raise RuntimeError(f"{result['errors']} requests failed")
        return {key: result[key] for key in ("per_second", "p50_us", "p99_us", "p999_us")}

    metrics = [Metric("per_second", "", goal=(2, "etcd") if goals else None, at_least=True),
               Metric("p50_us", "us", goal=(0.5, "etcd") if goals else None), Metric("p99_us", "us"), Metric("p999_us", "us")]
    name = f"store-{work}-{clients}" + ("" if count == 1 else f"-of-{count}")
    return Case(name, title, metrics, {"ferry": lambda: measure("ferry"), "etcd": lambda: measure("etcd")},
                needs_kvm=False, rounds=5, begin=field.begin, end=field.end)


def memory_case():
    field = Field(1)

    def measure(system):
        field.load(system, "put", 32, "1")
        return {"pss": field.of(system).memory()}

    return Case("store-memory", "Memory of a member, PSS, growing with 32 clients that put 256 bytes for a second a round",
                [Metric("pss", "KiB")], {"ferry": lambda: measure("ferry"), "etcd": lambda: measure("etcd")},
                needs_kvm=False, rounds=5, begin=field.begin, end=field.end)


def failover_case():
    field = Field(3)

    def measure(system):
        members = field.of(system)
        load = subprocess.Popen([LOAD, system, members.clients(), "gap", "1", "8"], stdout=subprocess.PIPE, text=True)
        time.sleep(1)
        leader = members.leader()
        members.kill(leader)
        gap = json.loads(load.communicate(timeout=60)[0])["gap_ms"]
        members.start(leader)
        members.wait(lambda: members.leader() is not None)
        if system == "ferry":
            members.wait(members.voters(3))
        time.sleep(1)
        return {"gap": gap}

    return Case("store-failover", "Leader of three killed: longest time between two committed writes of one client",
                [Metric("gap", "ms", goal=500)],
                {"ferry": lambda: measure("ferry"), "etcd": lambda: measure("etcd")},
                needs_kvm=False, rounds=5, begin=field.begin, end=field.end)


CASES = [
    *[load_case("put", clients, 1, f"Durable puts of 256 bytes, {clients} clients, one member") for clients in (1, 8, 32, 128)],
    *[load_case("read", clients, 1, f"Linearizable reads, {clients} clients, one member") for clients in (1, 8, 32, 128)],
    *[load_case("put", clients, 3, f"Durable puts of 256 bytes, {clients} clients, three members on one disk")
      for clients in (1, 32)],
    *[load_case("watch", count, 1, f"A put until the last of {count} watches has it", goals=False) for count in (100, 1000)],
    memory_case(),
    failover_case(),
]
