"""The cluster at work, on three hosts in namespaces of this one: a machine from its order to its first instruction,
decisions a second, machines of a lost host, a drain.

No peer does this on one machine in a way that could be set beside it, so these are ferry's own figures. Lease times are
2 s and the defaults (10 s). Machines' first instructions are what their witness files say (base/witness.h)."""

import os
import random
import re
import subprocess
import sys
import threading
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../cluster"))

from harness import BUILD, Case, Metric, Unavailable
from hosts import SHORT_LEASE, HostError, Hosts, Skipped

LONG_LEASE = ""  # the defaults
ROOM = "--host-memory 16G --host-cpus 64"
DRAINED, DECIDED, KEPT = 20, 60, 6


class Cluster:
    """Begun with the first measurement, and kept for its case."""

    def __init__(self, lease):
        self.lease, self.hosts, self.made = lease, None, 0

    def begin(self):
        if not os.path.exists(f"{BUILD}/tests/cluster/witness_check"):
            raise Unavailable("witness_check is not built (make cluster-tests)")
        if not self.hosts:
            try:
                self.hosts = Hosts(3, lease=self.lease, options=ROOM)
            except Skipped as why:
                raise Unavailable(str(why)) from why
        return self.hosts

    def end(self):
        if self.hosts:
            self.hosts.close()
        self.hosts = None

    def create(self, *words):
        self.made += 1
        name = f"m{self.made}"
        return name, self.begin().create(name, "test=idle", *words)

    def first_run(self, uuid, after=0):
        """CLOCK_BOOTTIME of the first entry into the guest, by a process that hadn't run before `after`; None: not yet."""
        path = f"{self.hosts.work}/witness/{uuid}.witness"
        if not os.path.exists(path):
            return None
        said = subprocess.run([f"{BUILD}/tests/cluster/witness_check", path], capture_output=True, text=True, check=False)
        begun = [int(when) for when in re.findall(r"ran (\d+) to", said.stdout)]
        return min((when for when in begun if when > after), default=None)


def boottime_ns():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def until(condition, what, limit=120):
    end = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"not within {limit} s: {what}")
        time.sleep(0.01)
    return value


def settle(hosts, names):
    if why := hosts.await_settled(names):
        raise RuntimeError(why)


# ---- a machine is made ----


def create(cluster):
    hosts = cluster.begin()
    asked = boottime_ns()
    name, uuid = cluster.create()
    answered = boottime_ns()
    runs = until(lambda: cluster.first_run(uuid), f"{name} runs")
    until(lambda: hosts.show(name)["state"] == "running", f"{name} is said to run")
    told = boottime_ns()
    hosts.ferry(1, "vm", "delete", name, "--wait")
    return {"order_ms": (answered - asked) / 1e6, "runs_ms": (runs - asked) / 1e6, "shown_ms": (told - asked) / 1e6}


# ---- decisions ----


def decide(cluster):
    """Many are started at once; from the first wish until the manager has given the last one to a host, and it runs."""
    hosts = cluster.begin()
    names = [cluster.create("--stopped")[0] for _ in range(DECIDED)]
    uuids = {hosts.show(name)["uuid"] for name in names}
    since = hosts.call_any("vm.list")["revision"]
    begun = time.monotonic()
    threads = [threading.Thread(target=lambda part=names[i::4]: [hosts.call(1, "vm.start", timeout=60, name=n) for n in part])
               for i in range(4)]
    for thread in threads:
        thread.start()
    placed = set()
    while len(placed) < DECIDED:
        answer = hosts.call(1, "vm.events", timeout=60, since=since)
        placed |= {e["uuid"] for e in answer["events"] if e["event"] == "owner" and e.get("stage") != "none"} & uuids
        since = answer["revision"]
        if time.monotonic() > begun + 120:
            raise RuntimeError(f"only {len(placed)} of {DECIDED} were placed within two minutes")
    decided = time.monotonic() - begun
    for thread in threads:
        thread.join()
    settle(hosts, names)
    ran = time.monotonic() - begun
    for name in names:
        hosts.call_any("vm.delete", name=name)
    until(lambda: not hosts.machines(), "all are deleted")
    return {"decisions_per_s": DECIDED / decided, "running_per_s": DECIDED / ran}


# ---- a host is lost ----


class Renewals:
    """When a host's renewals are committed, as a watch of the store tells; a moment later than it was."""

    def __init__(self, hosts, host):
        addresses = ",".join(f"10.77.0.{other}:7001" for other in hosts.numbers() if other != host)
        self.last, self.key = None, f"ferry/renewals/h{host}"
        self.child = subprocess.Popen(["ip", "netns", "exec", f"{hosts.net}-hub", f"{BUILD}/ferry", "store", "watch",
                                       self.key, "--store", addresses], stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        until(lambda: self.last, "a renewal is seen")

    def read(self):
        for line in self.child.stdout:
            if self.key in line:
                self.last = boottime_ns()

    def end(self):
        self.child.kill()
        self.child.wait()


def lose(cluster, with_leader):
    hosts = cluster.begin()
    names = list(hosts.machines()) or [cluster.create()[0] for _ in range(KEPT)]
    settle(hosts, names)
    leader = until(hosts.leader, "the store has a leader")
    busy = [int(machine["host"][1:]) for machine in hosts.machines().values()]
    victim = leader if with_leader else next((host for host in busy if host != leader), None)
    if victim not in busy:  # it has none: one goes there
        hosts.ferry(victim or leader % 3 + 1, "vm", "migrate", names[0], "--to", f"h{victim}", "--wait")
    theirs = [m["uuid"] for m in hosts.machines().values() if m["host"] == f"h{victim}"]
    renewals = Renewals(hosts, victim)
    # At any moment between two renewals.
    time.sleep(random.uniform(0, 0.5))
    hosts.power_off(victim)
    lost = boottime_ns()
    runs = [until(lambda uuid=uuid: cluster.first_run(uuid, lost), f"{uuid} runs elsewhere") for uuid in theirs]
    renewals.end()
    hosts.boot(victim)
    until(lambda: hosts.alive() == 3, "the host is back")
    settle(hosts, names)
    return {"from_renewal_ms": (max(runs) - renewals.last) / 1e6, "from_loss_ms": (max(runs) - lost) / 1e6,
            "machines": len(theirs)}


# ---- a drain ----


def drain(cluster):
    hosts = cluster.begin()
    names = list(hosts.machines()) or [cluster.create()[0] for _ in range(DRAINED)]
    settle(hosts, names)
    for host in (2, 3):  # all are on the first one then
        hosts.ferry(1, "cluster", "drain", f"h{host}")
    on_host = lambda host: sum(m["host"] == f"h{host}" for m in hosts.machines().values())
    until(lambda: on_host(1) == len(names), "all are on one host")
    for host in (2, 3):
        hosts.ferry(1, "cluster", "undrain", f"h{host}")
    begun = time.monotonic()
    hosts.ferry(1, "cluster", "drain", "h1")
    until(lambda: on_host(1) == 0, "the host is empty")
    took = time.monotonic() - begun
    hosts.ferry(1, "cluster", "undrain", "h1")
    settle(hosts, names)
    return {"drain_s": took, "a_machine_ms": took / len(names) * 1000}


def case(name, title, metrics, measure, lease=SHORT_LEASE, rounds=8):
    cluster = Cluster(lease)
    return Case(name, title, metrics, {"ferry": lambda: measured(cluster, measure)}, rounds=rounds, end=cluster.end)


def measured(cluster, measure):
    try:
        return measure(cluster)
    except HostError as why:
        raise RuntimeError(str(why)) from why


LOSS = [Metric("from_loss_ms", "ms"), Metric("machines", "")]

CASES = [
    case("cluster-create", "A machine from its order: answered, in its guest, shown as running",
         [Metric("order_ms", "ms"), Metric("runs_ms", "ms"), Metric("shown_ms", "ms")], create, rounds=15),
    case("cluster-decide", f"{DECIDED} machines are ordered at once: placed, running",
         [Metric("decisions_per_s", "/s"), Metric("running_per_s", "/s")], decide, rounds=3),
    case("cluster-lost", "A host is lost, lease 2 s: until the last of its machines runs elsewhere",
         [Metric("from_renewal_ms", "ms", goal=4000), *LOSS], lambda c: lose(c, False)),
    case("cluster-leader-lost", "The leader's host is lost, lease 2 s: until the last of its machines runs elsewhere",
         [Metric("from_renewal_ms", "ms", goal=4000), *LOSS], lambda c: lose(c, True)),
    case("cluster-leader-lost-10s", "The leader's host is lost, lease 10 s",
         [Metric("from_renewal_ms", "ms", goal=12000), *LOSS], lambda c: lose(c, True), lease=LONG_LEASE, rounds=3),
    case("cluster-drain", f"A host with {DRAINED} machines is drained",
         [Metric("drain_s", "s"), Metric("a_machine_ms", "ms")], drain, rounds=3),
]
