#!/usr/bin/env python3
"""random_operations: hours of what people do with a cluster, while what can break breaks.

    tests/cluster/random_operations.py [--seconds N] [--seed S]

Four hosts with a lease of 2 s, three of them voters. One operator creates, starts, stops, moves, calls off and deletes
machines, drains and undrains hosts, and has one voter replaced by another; meanwhile one fault after another of
random_runs.py, some at once. About every minute all is healed, and then

    - each machine is as the operator last wished it, where he was answered; running ones run, once, on the host and in the
      epoch of their record; stopped and deleted ones have no process anywhere, but for one that stands, on a host that was
      lost when its machine was deleted; no machine is there that nobody made;
    - the witness files say that none ran twice at a time, and no disk had two writers;
    - the history of the store's clients is linearizable, and the members agree.

Each such minute is one line of TAP.
"""

import argparse
import random
import sys
import threading
import time

from hosts import History, HostError, Hosts, Skipped, end_properly, report
from random_runs import ENVIRONMENT, PULSE, Fault

HOSTS, MACHINES_MOST, PERIOD, SETTLE_LIMIT = 4, 10, 45, 300


class Operator:
    """Does one thing at a time, and remembers what must have come of it: a wish, or None where nobody answered."""

    def __init__(self, hosts, seed):
        self.hosts, self.draw, self.number = hosts, random.Random(seed), 0
        self.wishes, self.uuids, self.drained, self.counts = {}, {}, set(), {}
        self.error = None

    def some_host(self):
        return self.draw.randint(1, HOSTS)

    def call(self, method, **params):
        """Whether it was done (True), refused (False), or nobody knows (None)."""
        try:
            return self.hosts.call(self.some_host(), method, timeout=4, **params) is not None
        except HostError as error:
            return None if any(word in str(error) for word in ("timed out", "no answer", "may have", "Errno",
                                                               "leader", "unknown")) else False

    def create(self):
        if len(self.there()) >= MACHINES_MOST:
            return False
        self.number += 1
        name = f"m{self.number}"
        words = []
        if self.draw.random() < 0.5:
            image = f"{self.hosts.work}/{name}.img"
            with open(image, "wb") as file:
                file.truncate(1 << 20)
            words = ["--disk", image]
        append = "test=blk mode=loop size=1M seconds=0" if words else PULSE
        self.wishes[name] = "maybe"
        try:
            self.uuids[name] = self.hosts.create(name, append, *words, host=self.some_host())
            self.wishes[name] = "running"
        except HostError:
            return None
        return True

    def there(self):
        return [name for name, wish in self.wishes.items() if wish != "deleting"]

    def some_machine(self):
        """Now and then one that is on its way out."""
        names = list(self.wishes) if self.draw.random() < 0.1 else self.there()
        return self.draw.choice(names) if names else None

    def wish(self, method, wanted):
        name = self.some_machine()
        if not name:
            return False
        done = self.call(method, name=name)
        if done is None or self.wishes[name] in ("maybe", "deleting"):
            self.wishes[name] = "maybe" if self.wishes[name] != "deleting" else "deleting"
        elif done:
            self.wishes[name] = wanted
        return done

    def start(self):
        return self.wish("vm.start", "running")

    def stop(self):
        return self.wish("vm.stop", "stopped")

    def delete(self):
        name = self.some_machine()
        if not name:
            return False
        done = self.call("vm.delete", name=name)
        if done or self.wishes[name] == "deleting":
            self.wishes[name] = "deleting"
        elif done is None:
            self.wishes[name] = "maybe"
        return done

    def move(self):
        name = self.some_machine()
        return bool(name) and self.call("vm.migrate", name=name, to=f"h{self.some_host()}")

    def call_off(self):
        name = self.some_machine()
        return bool(name) and self.call("vm.cancel_move", name=name)

    def drain(self):
        host = self.some_host()
        self.drained.add(host)
        return self.call("cluster.drain", host=f"h{host}")

    def undrain(self):
        if not self.drained:
            return False
        return self.call("cluster.undrain", host=f"h{self.drained.pop()}")

    def replace_voter(self):
        try:
            members = self.hosts.call(self.some_host(), "cluster.status", timeout=4)["members"]
            voters = [m["name"] for m in members if m["role"] in ("leader", "voter")]
            others = [m["name"] for m in members if m["role"] == "learner"]
            if not voters or not others:
                return False
            return self.call("cluster.voter", remove=[self.draw.choice(voters)], add=[self.draw.choice(others)])
        except HostError:
            return None

    def work(self, until):
        try:
            self.work_on(until)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def work_on(self, until):
        things = [self.create] * 5 + [self.move] * 6 + [self.stop] * 2 + [self.start] * 4 + [self.delete] + [
            self.call_off, self.drain, self.undrain, self.undrain, self.replace_voter]
        while time.monotonic() < until:
            thing = self.draw.choice(things)
            done = thing()
            self.counts[thing.__name__, done] = self.counts.get((thing.__name__, done), 0) + 1
            time.sleep(self.draw.uniform(0, 0.4))

    # ---- judging ----

    def undrain_all(self):
        for host in range(1, HOSTS + 1):
            end = time.monotonic() + SETTLE_LIMIT
            while True:
                try:
                    self.hosts.call_any("cluster.undrain", host=f"h{host}")
                    break
                except HostError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.2)
        self.drained.clear()

    def why_not_as_wished(self):
        """None when all is as it must be; learns what unanswered orders came to."""
        try:
            listed = self.hosts.machines()
            if self.hosts.alive() != HOSTS:
                return "not all hosts are alive"
            for name, wish in list(self.wishes.items()):
                why = self.why_not_so(name, wish, listed.pop(name, None))
                if why:
                    return why
        except HostError as error:
            return str(error)
        return f"there are machines that nobody made: {sorted(listed)}" if listed else None

    def why_not_so(self, name, wish, machine):
        if wish == "deleting" or (wish == "maybe" and not machine):
            if machine:
                return f"{name} isn't gone: {machine['state']}"
            uuid = self.uuids.get(name)
            left = [host for host in self.hosts.numbers() if uuid and self.hosts.machine_pids(host, uuid)]
            # Deleted while its host was lost: what comes back with that stands, and is left to a person.
            left = [host for host in left if (self.hosts.query(host, uuid) or {}).get("state") != "lease-lost"]
            if left:
                return f"{name} is gone, and has processes on {left}"
            del self.wishes[name]
            return None
        if not machine:
            return f"{name}, which was made, isn't there"
        if machine["state"] == "deleting":
            return f"{name} is on its way out" if wish == "maybe" else f"{name} goes, and nobody wished it"
        self.uuids[name] = machine["uuid"]
        said = self.hosts.show(name)["wish"]
        if wish != "maybe" and said != wish:
            return f"{name} should be {wish}, and its record says {said}"
        if said == "running":
            why = self.hosts.why_not_settled([name])
        else:
            left = [host for host in self.hosts.numbers() if self.hosts.machine_pids(host, machine["uuid"])]
            why = f"{name} was stopped, and has processes on {left}" if left else None
            if not left and machine["state"] not in ("stopped", "failed"):
                why = f"{name} was stopped, and is shown as {machine['state']}"
        if not why:
            self.wishes[name] = said
        return why

    def await_as_wished(self):
        begun = time.monotonic()
        while (why := self.why_not_as_wished()) and time.monotonic() < begun + SETTLE_LIMIT:
            time.sleep(0.2)
        return why, time.monotonic() - begun


def break_things(hosts, seed, until):
    """Faults at once and one after another, each of which ends."""
    draw, under_way, told = random.Random(seed), [], []
    while time.monotonic() < until or under_way:
        now = time.monotonic()
        for ending in [one for one in under_way if one[0] < now]:
            under_way.remove(ending)
            ending[1].end(hosts)
        if now < until and len(under_way) < 3 and draw.random() < 0.08:
            fault = Fault(draw, HOSTS)
            told.append(str(fault))
            fault.begin(hosts)
            under_way.append((now + fault.hold, fault))
        time.sleep(0.1)
    return told


def period(hosts, operator, seed):
    """Lines that say what is wrong, and what was done."""
    operator.counts = {}
    history = History(hosts, seed)
    until = time.monotonic() + PERIOD
    thread = threading.Thread(target=operator.work, args=(until,), daemon=True)
    thread.start()
    faults = break_things(hosts, seed, until)
    thread.join()
    hosts.heal()
    operator.undrain_all()
    why, took = operator.await_as_wished()
    wrong = [why] if why else []
    wrong += [f"the operator: {operator.error!r}"] if operator.error else []
    wrong += history.end() + hosts.witnesses()
    if wrong:
        wrong = [f"seed {seed}", *faults, *wrong, hosts.logs(120)]
    done = sum(count for (_, answer), count in operator.counts.items() if answer)
    unknown = sum(count for (_, answer), count in operator.counts.items() if answer is None)
    kinds = ", ".join(sorted({f"{name} {count}" for (name, answer), count in operator.counts.items() if answer}))
    return wrong, (f"{done} done ({kinds}), {unknown} unanswered, {len(faults)} faults; "
                   f"{len(operator.wishes)} machines, as wished {took:.1f} s after the healing")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    end_properly()
    begun, seed, failed = time.monotonic(), arguments.seed, []
    try:
        while time.monotonic() < begun + arguments.seconds and len(failed) < 5:
            with Hosts(HOSTS, options="--host-memory 4G --host-cpus 32", environment=ENVIRONMENT) as hosts:
                operator = Operator(hosts, seed)
                for _ in range(20):  # then a new cluster
                    wrong, text = period(hosts, operator, seed)
                    report(not wrong, f"seed {seed}: {text}", wrong)
                    if wrong:
                        failed.append(seed)
                    seed += 1
                    if wrong or time.monotonic() > begun + arguments.seconds:
                        break
    except Skipped as why:
        print(why)
        return 0
    print(f"# {seed - arguments.seed} periods in {time.monotonic() - begun:.0f} s with seeds from {arguments.seed}; "
          f"failed: {' '.join(map(str, failed)) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
