#!/usr/bin/env python3
"""move_states: moves by the cluster that are broken at each state of their record.

    tests/cluster/move_states.py [--all] [--only WORDS] [--clusters N]

A ferryd stops at a failure point (docs/cluster.md): the manager's around `reserved`, the target's around `incoming`, the
source's around `switching`, `done` and `aborted`, the target's around the end. Then something happens to the source's or
the target's machine, agent, host or link, or to the host that leads the store, which is the source, the target or the
third; and the stopped one goes on. And machines' own processes kill, stop or cut themselves at each of theirs.

However it ends, there is one owner in the end, the machine runs there and nowhere else, and the witness files say that it
never ran twice. Without --all a selection that has each point, each fault and each place of the leader.
"""

import argparse
import atexit
import itertools
import os
import shutil
import signal
import sys
import tempfile
import threading
import time

from hosts import BUILD, LIMIT, SHORT_LEASE, HostError, Hosts, Skipped, end_properly, is_stopped, report, send_signal
from tally import Tally, side_by_side

# The point, and on whose host it is.
AGENT_POINTS = {
    "manager-before-reserved": "manager", "manager-after-reserved": "manager",
    "agent-receives": "target", "agent-received": "target",
    "agent-before-incoming": "target", "agent-after-incoming": "target",
    "agent-before-switching": "source", "agent-after-switching": "source",
    "agent-moves-out": "source", "agent-moved-out": "source",
    "arbiter-asked": "source", "arbiter-before-done": "source", "arbiter-after-done": "source",
    "arbiter-answered": "source",
    "agent-before-end": "target", "agent-after-end": "target",
    "agent-before-aborted": "source", "agent-after-aborted": "source",
    "arbiter-before-aborted": "source", "arbiter-after-aborted": "source",
}
FAULTS = ("source-machine", "target-machine", "source-agent", "target-agent", "source-host", "target-host",
          "leader-host", "link", "source-cut-off", "target-cut-off")
LEADERS = ("third", "source", "target")

MACHINE_POINTS = {
    "run": ("source-connecting", "source-preparing", "source-ready", "source-first-round", "source-round",
            "source-before-freeze", "source-frozen", "source-state", "source-loaded", "source-before-ask",
            "source-asked", "source-before-commit", "source-after-commit", "source-started", "source-ended"),
    "receive": ("target-accepting", "target-building", "target-round", "target-state", "target-before-loaded",
                "target-loaded", "target-before-start", "target-locked", "target-after-start", "target-started"),
}
ACTIONS = ("kill", "stop", "stop-long", "cut")
LONG_LEASE = "--lease 8s --deadline 7s --stop 300ms --renew 500ms"  # a ferryd is killed and started meanwhile
SIDE_BY_SIDE = 3  # machines of one cluster that break themselves

# Stands in for the program that ferryd starts, beside a copy of it: UUID.run and UUID.receive say where the next such
# process shall break.
WRAPPER = """#!/bin/sh
unset FERRY_FAILURE_POINT
point={folder}/$2.$1
if mv "$point" "$point.taken" 2>/dev/null; then
    FERRY_FAILURE_POINT=$(cat "$point.taken")
    export FERRY_FAILURE_POINT
fi
exec {ferry} "$@"
"""


def wait_for(condition, what, limit=LIMIT):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {limit} s: {what}")
        time.sleep(0.02)


class Lane:
    """A cluster, and the cases that it does one after another."""

    def __init__(self, lease=SHORT_LEASE):
        self.folder = tempfile.mkdtemp(prefix="ferry-points.")
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)  # also when it is told to end
        shutil.copy(f"{BUILD}/ferryd", self.folder)
        with open(f"{self.folder}/ferry", "w", encoding="ascii") as file:
            file.write(WRAPPER.format(folder=self.folder, ferry=f"{BUILD}/ferry"))
        os.chmod(f"{self.folder}/ferry", 0o755)
        self.hosts = Hosts(3, lease=lease, options="--host-memory 4G --host-cpus 32",
                           environment={"FERRYD": f"{self.folder}/ferryd", "failure_points": "yes"})
        self.made, self.unreached, self.lock = 0, 0, threading.Lock()

    def close(self):
        self.hosts.close()

    def create(self, points=None):
        """A running machine with a disk it writes to: its name and UUID. `points`: process, and where it breaks."""
        with self.lock:
            self.made += 1
            name = f"m{self.made}"
        image = f"{self.hosts.work}/{name}.img"
        with open(image, "wb") as file:
            file.truncate(1 << 20)
        uuid = self.hosts.create(name, "test=blk mode=loop size=1M seconds=0", "--disk", image, "--stopped")
        for process, point in (points or {}).items():
            with open(f"{self.folder}/{uuid}.{process}", "w", encoding="ascii") as file:
                file.write(point)
        self.hosts.call_any("vm.start", name=name)
        if why := self.hosts.await_settled([name]):
            raise RuntimeError(f"a new machine doesn't run: {why}")
        return name, uuid

    def end_case(self, name, title, there):
        with self.lock:
            self.unreached += not there
        why = self.hosts.await_settled([name])
        wrong = [why] if why else []
        wrong += self.hosts.witnesses()
        if wrong:
            wrong += [self.hosts.logs(80)]
        self.hosts.call_any("vm.delete", name=name)
        return report(not wrong, title, wrong if there else ["it came out of it before that point", *wrong])


# ---- ferryd stops ----


def move_leader(hosts, to):
    """As well as it goes: elections go their own way."""
    for _ in range(20):
        try:
            if hosts.leader() == to:
                return
        except HostError:
            pass
        hosts.sh(f"store move-leader h{to} >/dev/null 2>&1")
        time.sleep(0.1)


def strike(hosts, fault, source, target, uuid):
    """What happens, and who has lost power."""
    if fault.endswith("-machine"):
        for pid in hosts.machine_pids(source if fault.startswith("source") else target, uuid):
            send_signal(pid, signal.SIGKILL)
    elif fault.endswith("-agent"):
        host = source if fault.startswith("source") else target
        hosts.sh(f"ferryd_kill {host}")
    elif fault == "leader-host":
        hosts.power_off(hosts.led_by)
    elif fault.endswith("-host"):
        hosts.power_off(source if fault.startswith("source") else target)
    elif fault == "link":
        hosts.sh(f"cut {source} {target}; cut {target} {source}")
    else:
        hosts.sh(f"isolate {source if fault.startswith('source') else target}")


def stage_of(machine):
    return (machine.get("migration") or {}).get("stage")


def is_asked_twice(point):
    return point.startswith("arbiter") and "aborted" in point


class Move:
    """One that is asked for, and its ferryds."""

    def __init__(self, lane, point):
        self.hosts, self.point = lane.hosts, point
        self.name, self.uuid = lane.create()
        self.source = int(self.hosts.show(self.name)["host"][1:])
        self.target, self.third = self.source % 3 + 1, (self.source + 1) % 3 + 1
        self.where, self.has_come = None, None

    def show(self):
        return ask(self.hosts, [self.third, self.source], "vm.show", name=self.name)

    def begin(self):
        ask(self.hosts, [self.third, self.source], "vm.migrate", name=self.name, to=f"h{self.target}")

    def choose_where(self):
        self.where = {"source": self.source, "target": self.target}.get(AGENT_POINTS[self.point])
        if self.where is None:
            wait_for(lambda: self.hosts.call_any("cluster.status").get("manager"), "somebody manages")
            self.where = int(self.hosts.call_any("cluster.status")["manager"][1:])

    def arm(self):
        self.has_come = self.hosts.arm(self.where, f"{self.point}:stop")

    def provoke(self):
        """The move, and what leads it to the point."""
        if is_asked_twice(self.point):
            self.make_the_machine_ask_to_abort()
            return
        aborts = "aborted" in self.point
        if aborts:  # it waits at `reserved` then
            self.hosts.signal_ferryd(self.target, signal.SIGSTOP)
        self.arm()
        self.begin()
        if aborts:
            wait_for(lambda: stage_of(self.show()) == "reserved", "reserved")
            ask(self.hosts, [self.third, self.source], "vm.cancel_move", name=self.name)

    def make_the_machine_ask_to_abort(self):
        """It asked to commit, and its agent died without an answer; so did the process at the target. The agent that
        comes next is asked the other question."""
        has_come = self.hosts.arm(self.source, "arbiter-asked:kill")
        self.begin()
        wait_for(lambda: has_come() and not self.hosts.ferryd(self.source), "arbiter-asked", 20)
        for pid in self.hosts.machine_pids(self.target, self.uuid):
            send_signal(pid, signal.SIGKILL)
        self.hosts.sh(f"ferryd_kill {self.source}")  # nsenter is left
        self.arm()
        self.hosts.ferryd_start(self.source)

    def await_point(self):
        try:
            wait_for(lambda: self.has_come() and is_stopped(self.hosts.ferryd(self.where)), self.point, 20)
            return True
        except RuntimeError:
            self.hosts.disarm(self.where)
            return False  # the move was over before: a fence, an election


def agent_case(lane, point, fault, leader):
    hosts, move = lane.hosts, Move(lane, point)
    hosts.led_by = {"source": move.source, "target": move.target, "third": move.third}[leader]
    move_leader(hosts, hosts.led_by)
    move.choose_where()
    move.provoke()
    there = move.await_point()
    hosts.signal_ferryd(move.target, signal.SIGCONT)
    strike(hosts, fault, move.source, move.target, move.uuid)
    if move.where not in hosts.off and hosts.ferryd(move.where):
        hosts.signal_ferryd(move.where, signal.SIGCONT)
    time.sleep({"machine": 0, "agent": 0.3, "host": 1.0}.get(fault.rsplit("-", 1)[1] if "-" in fault else "", 1.5))
    hosts.heal()
    return lane.end_case(move.name, f"{point}, then {fault}, the leader is the {leader}", there)


def ask(hosts, whom, method, **params):
    """Of whoever answers first, for a while: an election may be under way."""
    end = time.monotonic() + 60
    while True:
        for host in whom:
            try:
                return hosts.call(host, method, timeout=2, **params)
            except HostError as error:
                why = error
        if time.monotonic() > end:
            raise why
        time.sleep(0.1)


# ---- machines break themselves ----


def machine_case(lane, process, point, action):
    hosts = lane.hosts
    name, uuid = lane.create({process: f"{point}:{action.split('-')[0]}"})
    source = int(hosts.show(name)["host"][1:])
    target = source % 3 + 1
    where = source if process == "run" else target
    before = set(hosts.machine_pids(source, uuid))
    hosts.call_any("vm.migrate", name=name, to=f"h{target}")
    stopped = []

    def has_come():
        if action.startswith("stop"):
            stopped[:] = [pid for pid in hosts.machine_pids(where, uuid) if is_stopped(pid)]
            return bool(stopped)
        if action == "kill" and process == "run":
            return not before & set(hosts.machine_pids(source, uuid))
        return os.path.exists(f"{lane.folder}/{uuid}.{process}.taken")

    there = True
    try:
        wait_for(has_come, point, 20)
    except RuntimeError:
        there = False
    if stopped:
        time.sleep(3 if action == "stop-long" else 0.3)
        for pid in stopped:
            send_signal(pid, signal.SIGCONT)
    return lane.end_case(name, f"{point}: {action}", there)


# ---- which ----


def all_cases():
    for number, (point, fault) in enumerate(itertools.product(AGENT_POINTS, FAULTS)):
        yield agent_case, (point, fault, LEADERS[number % len(LEADERS)])
    for process, points in MACHINE_POINTS.items():
        for point, action in itertools.product(points, ACTIONS):
            yield machine_case, (process, point, action)


def core_cases():
    """Each fault and each place of the leader once, at the points around the switch above all."""
    points = ("agent-after-switching", "arbiter-asked", "arbiter-before-done", "arbiter-after-done", "agent-before-end",
              "agent-after-incoming", "agent-before-aborted", "arbiter-answered", "agent-moved-out",
              "manager-after-reserved")
    for number, (point, fault) in enumerate(zip(points, FAULTS)):
        yield agent_case, (point, fault, LEADERS[number % len(LEADERS)])
    yield agent_case, ("arbiter-after-done", "leader-host", "source")
    yield agent_case, ("arbiter-before-done", "target-machine", "third")
    yield agent_case, ("arbiter-after-aborted", "source-cut-off", "third")
    yield agent_case, ("arbiter-before-aborted", "link", "target")
    for number, (process, point) in enumerate((p, q) for p in MACHINE_POINTS for q in MACHINE_POINTS[p][-6:]):
        yield machine_case, (process, point, ACTIONS[number % len(ACTIONS)])


class Cases:
    def __init__(self, cases):
        self.agents, self.long, self.machines = [], [], []
        self.tally, self.unreached = Tally(), 0
        for case in cases:
            agents = self.long if is_asked_twice(case[1][0]) else self.agents
            (agents if case[0] is agent_case else self.machines).append(case)

    def work(self, lane, whose):
        """One after another. A fault that hits hosts must not meet another case, so those have a cluster alone."""
        while lane and (case := self.tally.take(whose)):
            title = " ".join(case[1])
            try:
                fine = case[0](lane, *case[1])
            except (RuntimeError, HostError, OSError) as error:
                fine = report(False, title, [repr(error), lane.hosts.logs(60)])
            self.tally.over(title, fine)

    def lead(self, whose, at_a_time, lease=SHORT_LEASE):
        try:
            lane = Lane(lease) if whose else None
        except Skipped as why:
            self.tally.skipped = str(why)
            return
        try:
            side_by_side([(self.work, lane, whose)] * at_a_time)
        finally:
            if lane:
                self.unreached += lane.unreached
                lane.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--only", metavar="WORDS", default="", help="cases with all of these words")
    parser.add_argument("--clusters", type=int, default=1, help="for cases that stop a ferryd; machines have one more")
    arguments = parser.parse_args()
    end_properly()
    wanted = all_cases() if arguments.all or arguments.only else core_cases()
    cases = Cases([case for case in wanted if all(word in case[1] for word in arguments.only.split())])
    begun = time.monotonic()
    side_by_side([(cases.lead, cases.agents, 1)] * arguments.clusters +
                 [(cases.lead, cases.long, 1, LONG_LEASE), (cases.lead, cases.machines, SIDE_BY_SIDE)])
    return cases.tally.end(f"{cases.tally.done} cases in {time.monotonic() - begun:.0f} s, "
                           f"{cases.unreached} of them over before their point", "; ")


if __name__ == "__main__":
    sys.exit(main())
