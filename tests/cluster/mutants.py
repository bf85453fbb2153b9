#!/usr/bin/env python3
"""mutants: hosts with real processes notice when one rule after another is broken.

    tests/cluster/mutants.py [--runs N] [--only NAME]... [--sound] [--random N]

build/mutants has a ferry and a ferryd that break one of the cluster's rules when FERRY_MUTANT names it
(base/cluster_mutant.h; `make cluster-mutants`). For each there is a schedule of faults under which the rule matters: a
host that is cut off, an answer that comes late, a manager that sleeps before its fence. The schedule is played until the
judge notices, N times (6) at most: witness files, where machines run in the end, whether all hosts are back. A line of TAP
each.

With --sound the schedules are played with the real ferry, and nothing may be noticed. With --random N a mutant meets N
runs of random_runs.py instead of its schedule.
"""

import argparse
import os
import signal
import sys
import time

from hosts import BUILD, HostError, Hosts, Skipped, end_properly, is_stopped, report, send_signal
import random_runs

HOSTS = 4  # the last one is no voter
# Seconds: lease, deadline, renewal.
TIMES = (4, 3.5, 0.5)
LONG_TIMES = (8, 7, 0.5)  # where what follows from a late deadline has to be seen
SLOW_TIMES = (8, 7, 2)  # where a manager has to stay the manager while it sleeps
PATIENCE = 60  # seconds for a step of a schedule
SETTLE = 90  # for the end of one
MACHINES = ("disk1", "idle1", "bare1")


class NotReached(Exception):
    """The schedule didn't come to where the mutant matters; it's played again."""


def until(condition, what, limit=PATIENCE):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise NotReached(what)
        time.sleep(0.03)


class Stage:
    """A cluster with machines, and what schedules do with it."""

    def __init__(self, mutant, times):
        self.armed, self.has_come = None, None
        self.lease, self.deadline, self.renew = times
        environment = dict(random_runs.ENVIRONMENT)
        if mutant:
            environment.update(FERRYD=f"{BUILD}/mutants/ferryd", FERRY_MUTANT=mutant)
        names = ("lease", "deadline", "renew")
        words = " ".join(f"--{name} {int(1000 * time)}ms" for name, time in zip(names, times))
        self.hosts = Hosts(HOSTS, lease=f"--stop 300ms {words}", environment=environment)
        image = f"{self.hosts.work}/disk1.img"
        with open(image, "wb") as file:
            file.truncate(8 << 20)
        self.uuids = {"disk1": self.hosts.create("disk1", "test=blk mode=loop seconds=0", "--disk", image),
                      "idle1": self.hosts.create("idle1", random_runs.PULSE),
                      "bare1": self.hosts.create("bare1", random_runs.PULSE, "--no-ha")}
        if why := self.hosts.await_settled(MACHINES):
            raise RuntimeError(f"machines of a new cluster don't run: {why}\n{self.hosts.logs()}")

    # ---- looking; of whoever isn't `avoid`

    def show(self, name, avoid=()):
        for host in self.hosts.numbers():
            if host in avoid or host in self.hosts.off:
                continue
            try:
                return self.hosts.call(host, "vm.show", timeout=2, name=name)
            except HostError:
                pass
        return {}

    def home(self, name):
        return int(self.show(name)["host"][1:])

    def pids(self, host, name):
        return self.hosts.machine_pids(host, self.uuids[name])

    def runs_on(self, host, name):
        return (self.hosts.query(host, self.uuids[name]) or {}).get("state") == "running"

    def runs_off(self, host, name):
        """By the word of another host's process."""
        return any(self.runs_on(one, name) for one in self.hosts.numbers() if one not in (host, *self.hosts.off))

    def await_elsewhere(self, host, name):
        """Or not: the mutant decides. What comes next is judged in the end."""
        end = time.monotonic() + self.lease + 15
        while time.monotonic() < end and not self.runs_off(host, name):
            time.sleep(0.03)
        time.sleep(1)  # so that both have something to witness

    def host_state(self, host, asked):
        try:
            hosts = self.hosts.call(asked, "cluster.hosts", timeout=2)["hosts"]
            return next(one["state"] for one in hosts if one["name"] == f"h{host}")
        except HostError:
            return None

    # ---- doing

    def sleep_until(self, when):
        time.sleep(max(0, when - time.monotonic()))

    def isolate(self, host):
        self.hosts.sh(f"isolate {host}")

    def heal_links(self):
        self.hosts.heal_links()

    def stop(self, host):
        self.hosts.signal_ferryd(host, signal.SIGSTOP)

    def go_on(self, host):
        self.hosts.signal_ferryd(host, signal.SIGCONT)

    def signal_machine(self, host, name, number):
        for pid in self.pids(host, name):
            send_signal(pid, number)

    def move(self, name, to):
        self.hosts.call_any("vm.migrate", name=name, to=f"h{to}")
        until(lambda: self.show(name).get("host") == f"h{to}" and not self.hosts.why_not_settled([name]),
              f"{name} is on h{to}")

    def away_from(self, *hosts):
        """A voter that isn't one of them."""
        return next(one for one in range(1, HOSTS) if one not in hosts)

    def lead(self, host):
        """`host` leads the store."""
        def leads():
            if self.hosts.sh("leader") == f"h{host}":
                return True
            self.hosts.sh(f"store move-leader h{host} >/dev/null 2>&1")
            return False
        until(leads, f"h{host} leads")

    def manager(self):
        try:
            name = self.hosts.call_any("cluster.status").get("manager")
        except HostError:
            name = None
        return int(name[1:]) if name else None

    def victim(self, name):
        """The host that has the machine; it neither leads nor manages, nor is it to."""
        until(self.manager, "somebody manages")
        home, manager = self.home(name), self.manager()
        if home == manager:
            home = self.away_from(manager)
            self.move(name, home)
        self.lead(self.away_from(home))
        return home

    def arm(self, host, point, action="stop"):
        """The host's ferryd stops where it comes to the point."""
        self.armed, self.has_come = host, self.hosts.arm(host, f"{point}:{action}")

    def await_point(self, host):
        until(lambda: self.has_come() and is_stopped(self.hosts.ferryd(host)), f"h{host} comes to its failure point")

    # ---- judging

    def judge(self):
        if self.armed and not self.has_come():
            self.hosts.disarm(self.armed)
        self.hosts.heal()
        end = time.monotonic() + SETTLE
        while not (wrong := [line for line in self.hosts.witnesses() if "WRONG" in line]):
            why = self.why_not_all_well()
            if not why or time.monotonic() > end:
                return [why] if why else [line for line in self.hosts.witnesses() if "WRONG" in line]
            time.sleep(0.2)
        return wrong

    def why_not_all_well(self):
        try:
            if (alive := self.hosts.alive()) != HOSTS:
                return f"only {alive} of {HOSTS} hosts are back"
        except HostError as error:
            return str(error)
        return self.hosts.why_not_settled(MACHINES)


# ---- schedules ----


def cut_off(stage, name="idle1"):
    """A host is cut off until its machine runs elsewhere, and comes back."""
    home = stage.victim(name)
    stage.isolate(home)
    stage.await_elsewhere(home, name)
    stage.heal_links()
    time.sleep(2)


def cut_off_without_deadline(stage):
    cut_off(stage, "bare1")


def late_answer(stage):
    """A renewal has committed, and its host sleeps before it hears of that, cut off from then on."""
    home = stage.victim("idle1")
    stage.arm(home, "lease-after-renewal")
    stage.await_point(home)
    begun = time.monotonic()
    stage.isolate(home)
    stage.sleep_until(begun + stage.deadline - 4 * stage.renew)  # the deadline before is still to come
    stage.go_on(home)
    stage.await_elsewhere(home, "idle1")


def late_reader(stage):
    """A machine sleeps, so that a deadline waits for it; its host is cut off, and it goes on."""
    home = stage.victim("idle1")
    stage.signal_machine(home, "idle1", signal.SIGSTOP)
    begun = time.monotonic()
    time.sleep(1.5 * stage.renew)
    stage.isolate(home)
    stage.sleep_until(begun + stage.deadline - 4 * stage.renew)
    stage.signal_machine(home, "idle1", signal.SIGCONT)
    stage.await_elsewhere(home, "idle1")


late_answer.times = late_reader.times = LONG_TIMES


def sleeper(stage):
    """A machine sleeps until it runs elsewhere, and goes on."""
    home = stage.victim("idle1")
    stage.signal_machine(home, "idle1", signal.SIGSTOP)
    stage.isolate(home)
    stage.await_elsewhere(home, "idle1")
    stage.signal_machine(home, "idle1", signal.SIGCONT)
    time.sleep(1)


def late_fence(stage):
    """A host sleeps, and the manager falls asleep just before it fences it; the host wakes up and its machine goes on."""
    home = stage.victim("idle1")
    manager = stage.manager()
    stage.lead(stage.away_from(home, manager))
    stage.arm(manager, "manager-before-fence")
    stage.stop(home)
    stage.await_point(manager)
    stage.go_on(home)
    until(lambda: stage.runs_on(home, "idle1"), "the machine goes on", 3 * stage.renew)  # then another one manages
    stage.stop(home)  # its agent would end the machine
    stage.go_on(manager)
    stage.await_elsewhere(home, "idle1")


late_fence.times = SLOW_TIMES


def unknown_switch(stage):
    """The source's host leads the store, and is cut off before it commits a switch. Its agent dies when it has answered;
    that of the target sleeps, and can't end what runs there."""
    home, target = stage.home("idle1"), HOSTS
    if home == target:
        home = 1
        stage.move("idle1", home)
    stage.lead(home)
    stage.arm(home, "arbiter-before-done")
    stage.hosts.call_any("vm.migrate", name="idle1", to=f"h{target}")
    stage.await_point(home)
    stage.stop(target)
    stage.isolate(home)
    stage.arm(home, "arbiter-answered", "kill")
    stage.go_on(home)
    until(lambda: not stage.hosts.ferryd(home), "the agent has answered", 8)
    stage.hosts.sh(f"ferryd_kill {home}")
    stage.heal_links()
    stage.hosts.ferryd_start(home)
    time.sleep(4)
    stage.go_on(target)


unknown_switch.times = LONG_TIMES


def killed(stage):
    """A machine's process is killed, and it is started again."""
    home = stage.home("idle1")
    epoch = stage.show("idle1")["epoch"]
    stage.signal_machine(home, "idle1", signal.SIGKILL)
    until(lambda: stage.show("idle1").get("epoch", epoch) != epoch or stage.runs_on(home, "idle1"), "it is started again")


def stopped_and_started(stage):
    """A machine is stopped and started, and its agent sleeps from when it has given it up."""
    home = stage.victim("idle1")
    stage.hosts.call_any("cluster.drain", host=f"h{home}", avoid=(home,))
    stage.hosts.call_any("vm.stop", name="idle1", avoid=(home,))
    until(lambda: not stage.show("idle1", (home,)).get("host"), "it is given up")
    stage.stop(home)
    asked = stage.away_from(home)
    stage.hosts.call(asked, "vm.start", name="idle1")
    stage.await_elsewhere(home, "idle1")
    stage.go_on(home)
    stage.hosts.call(asked, "cluster.undrain", host=f"h{home}")


def unknown_start(stage):
    """A host is cut off before it commits a machine's start."""
    home = stage.victim("idle1")
    stage.arm(home, "agent-before-start")
    stage.signal_machine(home, "idle1", signal.SIGKILL)
    stage.await_point(home)
    stage.isolate(home)
    stage.go_on(home)
    stage.lead(stage.away_from(home, int(stage.hosts.sh("leader")[1:])))  # who has what was sent may not commit it
    end = time.monotonic() + 5  # the agent waits for an answer for 2
    while time.monotonic() < end and not stage.runs_on(home, "idle1"):
        time.sleep(0.05)
    stage.heal_links()
    time.sleep(1)


unknown_start.times = SLOW_TIMES


def old_memory(stage):
    """A machine stands on a host that was cut off; where it runs meanwhile the power fails, and it comes back."""
    home = HOSTS
    stage.move("idle1", home)
    stage.lead(1)
    stage.isolate(home)
    stage.await_elsewhere(home, "idle1")
    stage.hosts.sh(f"ferryd_kill {home}")
    stage.heal_links()
    second = stage.home("idle1")
    others = [one for one in range(1, HOSTS) if one != second]
    for one in others:  # it shall find room only where it stands
        stage.hosts.call(others[0], "cluster.drain", host=f"h{one}")
    stage.hosts.power_off(second)
    until(lambda: stage.host_state(second, others[0]) == "dead", "the second host is lost")
    stage.arm(home, "lease-after-renewal")  # registered, and it hasn't looked
    stage.hosts.ferryd_start(home)
    stage.await_point(home)
    until(lambda: stage.show("idle1", (home, second)).get("host") == f"h{home}", "it goes to where it stands")
    stage.go_on(home)
    stage.await_elsewhere(second, "idle1")
    for one in others:
        stage.hosts.call_any("cluster.undrain", host=f"h{one}", avoid=(second,))


def try_to_declare(stage, asked, seen):
    try:
        stage.hosts.call(asked, "vm.declare_dead", name="bare1", host=seen["host"], incarnation=seen["incarnation"],
                         epoch=seen["epoch"])
    except HostError:
        pass  # so it has to be


def declared_alive(stage):
    """A person declares a machine dead that runs on a host which is alive, by a slip."""
    home = stage.victim("bare1")
    asked = stage.away_from(home)
    seen = stage.show("bare1")
    stage.stop(home)  # its agent shall not see it before the machine runs elsewhere
    try_to_declare(stage, asked, seen)
    end = time.monotonic() + 10
    while time.monotonic() < end and not stage.runs_off(home, "bare1"):
        time.sleep(0.03)
    time.sleep(0.5)
    stage.go_on(home)


def declared_late(stage):
    """A person looks at a lost machine, its host comes back and is lost again; then it is declared dead."""
    home = stage.victim("bare1")
    asked = stage.away_from(home)
    stage.isolate(home)
    until(lambda: stage.host_state(home, asked) == "dead", "the host is lost")
    seen = stage.show("bare1", (home,))
    stage.heal_links()
    until(lambda: stage.show("bare1").get("incarnation", 0) > seen["incarnation"], "the machine is taken up again")
    stage.isolate(home)
    until(lambda: stage.host_state(home, asked) == "dead", "the host is lost again")
    try_to_declare(stage, asked, seen)
    stage.await_elsewhere(home, "bare1") if stage.show("bare1", (home,)).get("state") != "lost" else None


SCHEDULES = {
    "DEADLINE_FROM_REPLY": late_answer,
    "UNKNOWN_RENEWS": cut_off,
    "FENCE_WITHOUT_COMPARE": late_fence,
    "RENEWAL_WITHOUT_COMPARE": cut_off,
    "TAKE_FROM_LIVE_HOST": cut_off,
    "COMMIT_ON_UNKNOWN": unknown_switch,
    "START_UNKNOWN_SPAWNS": unknown_start,
    "RESTART_KEEPS_EPOCH": killed,
    "GIVE_UP_WHILE_RUNNING": stopped_and_started,
    "STALE_MEMORY_RETURNS": old_memory,
    "FENCE_TAKES_UNBOUNDED": cut_off_without_deadline,
    "DECLARE_ON_LIVE_HOST": declared_alive,
    "DECLARE_WITHOUT_COMPARE": declared_late,
    "DEADLINE_RELATIVE": late_reader,
    "RENEWED_AFTER_EXPIRY": cut_off,
    "NO_CHECK_BEFORE_RUN": sleeper,
    "DRIFT_ABOVE_RHO": cut_off,
}


def play(schedule, mutant):
    """One cluster, one run: what the judge says, and why it wasn't reached."""
    stage = Stage(mutant, getattr(schedule, "times", TIMES))
    try:
        missed = ""
        try:
            schedule(stage)
        except (NotReached, HostError) as why:
            missed = str(why)
        wrong = stage.judge()
        if wrong and os.environ.get("KEEP_LOGS"):
            print(stage.hosts.logs(60))
        return wrong, missed
    finally:
        stage.hosts.close()


def hunt(mutant, runs):
    notes = []
    for number in range(1, runs + 1):
        wrong, missed = play(SCHEDULES[mutant], mutant)
        if wrong:
            return report(True, f"{mutant}: noticed in run {number} ({SCHEDULES[mutant].__name__}): {wrong[0].strip()}",
                          notes)
        notes.append(f"run {number}: {missed or 'nothing noticed'}")
    return report(False, f"{mutant}: noticed within {runs} runs ({SCHEDULES[mutant].__name__})", notes)


def play_soundly(schedule, runs):
    """The real ferry's: the schedule has to come to its end, and nothing to be wrong."""
    for number in range(1, runs + 1):
        wrong, missed = play(schedule, None)
        if wrong or not missed:
            break
    return report(not wrong and not missed, f"{schedule.__name__}: nothing is wrong with the real ferry (run {number})",
                  [missed, *wrong])


def meet_at_random(mutant, runs):
    """Of random_runs.py, until something is wrong: how many it took."""
    environment = dict(random_runs.ENVIRONMENT, FERRYD=f"{BUILD}/mutants/ferryd", FERRY_MUTANT=mutant)
    for number in range(runs):
        with Hosts(random_runs.HOSTS, environment=environment) as hosts:
            random_runs.make_machines(hosts)
            wrong = random_runs.run(hosts, 1 + number, 4)[1]
            if wrong:
                why = next((line for line in wrong if "WRONG" in line), wrong[-2])
                return report(True, f"{mutant}: noticed in random run {number + 1}: {why.strip()}")
    return report(True, f"{mutant}: not noticed in {runs} random runs")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--only", metavar="NAME", action="append", help="a mutant")
    parser.add_argument("--sound", action="store_true")
    parser.add_argument("--random", type=int, metavar="N")
    arguments = parser.parse_args()
    end_properly()
    wanted = arguments.only or list(SCHEDULES)
    try:
        if arguments.sound:
            fine = [play_soundly(schedule, arguments.runs) for schedule in
                    dict.fromkeys(SCHEDULES[name] for name in wanted)]
        elif arguments.random:
            fine = [meet_at_random(name, arguments.random) for name in wanted]
        else:
            fine = [hunt(name, arguments.runs) for name in wanted]
    except Skipped as why:
        print(why)
        return 0
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
