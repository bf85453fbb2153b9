#!/usr/bin/env python3
"""random_runs: machines of a cluster while what a seed says goes wrong.

    tests/cluster/random_runs.py [--runs N] [--seed S] [--clusters N] [--runs-a-cluster N] [--faults N]

A run: five machines, two of them with disks they write to and one without a deadline, on three hosts with a lease of
2 s; machines on the move, clients of the store at work; and some faults, apart or at once: ferryd killed, restarted or
stopped, also just where it matters (a failure point, docs/cluster.md), machines' processes killed or stopped, links cut
one way, both ways, for one pair or with losses, hosts without power; the victim is any host, or the one that leads the
store. In the end all is healed, and

    - every machine runs, once, on the host and in the epoch of its record, and all hosts are back;
    - the witness files say that none ran twice at a time, and no disk had two writers (witness_check.c);
    - the clients' history is linearizable, and the members agree (history.c).

Run N has the seed S + N - 1: `--seed THAT --runs 1` plans the same again. What processes make of it is theirs.
"""

import argparse
import random
import signal
import sys
import time

from hosts import History, HostError, Hosts, Skipped, end_properly, report, send_signal
from tally import Tally, side_by_side

HOSTS = 3
ENVIRONMENT = {"failure_points": "yes"}
MACHINES = ("disk1", "disk2", "idle1", "idle2", "bare1")
PULSE = "test=idle pulse=20"  # so that the witness files see all the time that it runs
FAULTS = ("kill-ferryd", "restart-ferryd", "stop-ferryd", "power-off", "isolate", "hear-nobody", "heard-by-nobody",
          "cut-pair", "cut-one-way", "lossy", "kill-machine", "stop-machine", "sleep-at")
POINTS = ("lease-before-renewal", "lease-after-renewal", "manager-before-fence", "manager-after-fence",
          "agent-before-start", "agent-after-start", "agent-received", "agent-after-switching", "agent-moved-out",
          "arbiter-before-done", "arbiter-after-done", "arbiter-answered", "agent-before-end")


class Fault:
    """What goes wrong at `at` seconds, for `hold`; `victim` 0 is the leader's host."""

    def __init__(self, draw, count=HOSTS):
        self.kind, self.count = draw.choice(FAULTS), count
        self.at, self.hold = draw.uniform(0, 1.5), draw.choice((0.2, 0.6, 1.2, 2.4, 4.4)) * draw.uniform(0.8, 1.2)
        self.victim, self.other = draw.randint(0, count), draw.randint(1, count - 1)
        self.pick = draw.random()
        self.point = POINTS[int(self.pick * len(POINTS))]

    def __str__(self):
        return f"{self.kind} {f'{self.point} ' if self.kind == 'sleep-at' else ''}{f'h{self.victim}' if self.victim else 'leader'} at {self.at:.1f} for {self.hold:.1f}"

    def begin(self, hosts):
        if not self.victim:
            try:
                self.victim = hosts.leader() or 1
            except HostError:
                self.victim = 1
        host, pair = self.victim, (self.victim - 1 + self.other) % self.count + 1
        if self.kind in ("kill-ferryd", "restart-ferryd", "power-off", "stop-ferryd") and host in hosts.off:
            return
        if self.kind in ("kill-ferryd", "restart-ferryd"):
            hosts.sh(f"ferryd_kill {host}")
            if self.kind == "restart-ferryd":
                hosts.ferryd_start(host)
        elif self.kind == "stop-ferryd":
            hosts.signal_ferryd(host, signal.SIGSTOP)
        elif self.kind == "sleep-at":
            hosts.arm(host, f"{self.point}:stop")
        elif self.kind == "power-off":
            hosts.power_off(host)
        elif self.kind == "isolate":
            hosts.sh(f"isolate {host}")
        elif self.kind == "lossy":
            hosts.sh(f"lose {host} 40")
        elif self.kind in ("hear-nobody", "heard-by-nobody"):
            for one in hosts.numbers():
                if one != host:
                    hosts.sh(f"cut {host} {one}" if self.kind == "hear-nobody" else f"cut {one} {host}")
        elif self.kind in ("cut-pair", "cut-one-way"):
            hosts.sh(f"cut {host} {pair}")
            if self.kind == "cut-pair":
                hosts.sh(f"cut {pair} {host}")
        elif pids := sorted(hosts.machine_pids(host)):
            self.pid = pids[int(self.pick * len(pids))]
            send_signal(self.pid, signal.SIGKILL if self.kind == "kill-machine" else signal.SIGSTOP)

    def end(self, hosts):
        if self.kind == "kill-ferryd":
            hosts.ferryd_start(self.victim)
        elif self.kind in ("stop-ferryd", "sleep-at"):
            hosts.disarm(self.victim)
            hosts.signal_ferryd(self.victim, signal.SIGCONT)
        elif self.kind == "power-off":
            hosts.boot(self.victim)
        elif self.kind == "stop-machine":
            for pid in hosts.machine_pids(self.victim):
                send_signal(pid, signal.SIGCONT)
        elif "machine" not in self.kind and self.kind != "restart-ferryd":
            hosts.heal_links()


class Move:
    def __init__(self, draw):
        self.at, self.hold = draw.uniform(0, 1.5), 0
        self.name, self.to, self.ask = draw.choice(MACHINES), draw.randint(1, HOSTS), draw.randint(1, HOSTS)

    def __str__(self):
        return f"{self.name} to h{self.to} at {self.at:.1f}"

    def begin(self, hosts):
        try:
            hosts.call(self.ask, "vm.migrate", timeout=1, name=self.name, to=f"h{self.to}")
        except HostError:
            pass  # it is there, it moves, nobody answers

    def end(self, hosts):
        pass


def plan_of(seed, faults):
    draw = random.Random(seed)
    return [Fault(draw) for _ in range(faults)] + [Move(draw) for _ in range(draw.randint(1, 3))]


def carry_out(hosts, plan):
    todo = sorted([(one.at, 0, n) for n, one in enumerate(plan)] +
                  [(one.at + one.hold, 1, n) for n, one in enumerate(plan)])
    start = time.monotonic()
    for when, which, number in todo:
        time.sleep(max(0, start + when - time.monotonic()))
        (plan[number].end if which else plan[number].begin)(hosts)


def run(hosts, seed, faults):
    """How long it took from the healing until all ran, and lines that say what is wrong."""
    plan = plan_of(seed, faults)
    history = History(hosts, seed)
    carry_out(hosts, plan)
    hosts.heal()
    healed = time.monotonic()
    why = hosts.await_settled(MACHINES)
    settled = time.monotonic() - healed
    wrong = [f"not all machines run in the end: {why}"] if why else []
    wrong += [why] if (why := hosts.await_alive()) else []
    wrong += history.end() + hosts.witnesses()
    if wrong:
        wrong = [f"seed {seed}", *(str(one) for one in plan), *wrong, hosts.logs(60)]
    return settled, wrong


def make_machines(hosts):
    for name in MACHINES:
        with_disk, words = name.startswith("disk"), ["--no-ha"] if name.startswith("bare") else []
        if with_disk:
            image = f"{hosts.work}/{name}.img"
            with open(image, "wb") as file:
                file.truncate(8 << 20)
            words = ["--disk", image]
        hosts.create(name, "test=blk mode=loop seconds=0" if with_disk else PULSE, *words)
    if why := hosts.await_settled(MACHINES):
        raise RuntimeError(f"machines of a new cluster don't run: {why}\n{hosts.logs()}")


def over(tally, seed, wrong, plan, begun):
    tally.over(seed, report(not wrong, f"seed {seed}: {plan} ({time.monotonic() - begun:.1f} s)", wrong))


def lead(tally, seeds, arguments):
    """One cluster after another, until all runs are made."""
    try:
        seed = tally.take(seeds)
        while seed is not None:
            with Hosts(HOSTS, environment=ENVIRONMENT) as hosts:
                make_machines(hosts)
                for number in range(arguments.runs_a_cluster):
                    begun = time.monotonic()
                    settled, wrong = run(hosts, seed, arguments.faults)
                    plan = ", ".join(str(one) for one in plan_of(seed, arguments.faults))
                    over(tally, seed, wrong, f"{plan}; all ran {settled:.1f} s after the healing", begun)
                    seed = tally.take(seeds)
                    if seed is None or wrong:
                        break
    except Skipped as why:
        tally.skipped = str(why)
    except Exception as error:  # pylint: disable=broad-except
        over(tally, seed, [repr(error)], "the cluster's set-up", time.monotonic())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--clusters", type=int, default=2, help="side by side")
    parser.add_argument("--runs-a-cluster", type=int, default=20)
    parser.add_argument("--faults", type=int, default=2, help="a run")
    arguments = parser.parse_args()
    end_properly()
    tally, seeds = Tally(), list(range(arguments.seed, arguments.seed + arguments.runs))
    begun = time.monotonic()
    side_by_side([(lead, tally, seeds, arguments)] * arguments.clusters)
    return tally.end(f"{tally.done} runs in {time.monotonic() - begun:.0f} s with seeds from {arguments.seed}")


if __name__ == "__main__":
    sys.exit(main())
