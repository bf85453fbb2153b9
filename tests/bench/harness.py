"""What benchmark cases are made of: repetitions in turns, processes and their memory, and statistics."""

import os
import re
import resource  # not used by name: os.wait4 imports it, and the lab has only what is loaded beforehand
import select
import signal
import statistics
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("FERRY_BUILD", os.path.join(ROOT, "build"))
FERRY = os.path.join(BUILD, "ferry")
GUEST = os.path.join(BUILD, "guest/testguest-pvh.elf")
LIMIT = 60  # seconds of silence from a guest after which it has failed


class Unavailable(Exception):
    """A case or subject that can't run here, with the reason."""


class Metric:
    """`goal` is the most that ferry may have: a number, or (factor, subject) of what that subject has. With
    `at_least`, the least."""

    def __init__(self, name, unit, goal=None, at_least=False):
        self.name, self.unit, self.goal, self.at_least = name, unit, goal, at_least


class Case:
    """One comparison. `subjects` maps a name to a function that measures once and returns {metric name: number}.
    `needs_ring0`: KVM must run a guest's kernel natively, or the case is one for the lab."""

    def __init__(self, name, title, metrics, subjects, needs_kvm=True, needs_ring0=False, rounds=None, begin=None,
                 end=None):
        self.name, self.title, self.metrics, self.subjects = name, title, metrics, subjects
        self.needs_ring0 = needs_ring0
        self.needs_kvm, self.rounds, self.begin, self.end = needs_kvm, rounds, begin, end

    def run(self, rounds, say):
        """A round measures each subject once; whoever was first is last in the next one, so that what the host does
        meanwhile meets all alike. The first round only warms up: file caches, and the loads of programs."""
        values, missing = {name: [] for name in self.subjects}, {}
        order = list(self.subjects)
        rounds = min(self.rounds or rounds, rounds)
        if self.begin:
            self.begin()
        try:
            for number in range(rounds + 1 if rounds > 1 else 1):
                for name in order:
                    if name in missing:
                        continue
                    try:
                        measured = self.subjects[name]()
                    except Unavailable as why:
                        missing[name] = f"left out: {why}"
                    except (RuntimeError, OSError, subprocess.SubprocessError) as why:
                        missing[name] = f"FAILED: {why}"
                    if name in missing:
                        say(f"{self.name}: {name} {missing[name]}")
                        continue
                    if number or rounds == 1:
                        values[name].append(measured)
                order = order[1:] + order[:1]
        finally:
            if self.end:
                self.end()
        return {"case": self.name, "title": self.title, "rounds": rounds, "values": values, "missing": missing}


def summary(numbers):
    """Median, and the spread as the quarters on both sides of it and the ends."""
    ordered = sorted(numbers)
    quarters = statistics.quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return {"median": statistics.median(ordered), "low": quarters[0], "high": quarters[2],
            "min": ordered[0], "max": ordered[-1], "count": len(ordered)}


# ---- processes ----


MARK = "FERRY_BENCH_RUN"  # in the environment of all that a run starts, and of nothing else


def marked(mark):
    """The processes that live with this mark in their environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if wanted in environ.read().split(b"\0"):
                    found.append(int(pid))
        except OSError:
            pass  # gone, or somebody else's
    return found


def take_along():
    """Whatever ends this process, SIGKILL too, ends what it has started: a machine that runs detached, whose guest
    may ignore the power button, would load the host for ever. A process of its own waits for that end."""
    mark = os.environ[MARK] = f"{os.getpid()}-{time.monotonic_ns()}"
    end, alive = os.pipe()  # `alive` is closed by exec, so this process alone has it
    if os.fork():
        os.close(end)
        return
    # Not marked itself: /proc shows the environment that a program was started with.
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.close(alive)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.read(end, 1)
    deadline = time.monotonic() + LIMIT
    while (left := marked(mark)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.1)  # those that were just being started are seen the next time
    os._exit(0)


class Guest:
    """A hypervisor with our test guest; its standard output is the guest's serial port."""

    def __init__(self, command):
        self.command, self.output, self.first_byte = command, b"", None
        out, theirs = os.pipe()
        errors, their_errors = os.pipe()
        os.set_blocking(errors, False)
        self.out, self.errors = out, errors
        self.start = time.monotonic_ns()
        # posix_spawn rather than fork: the time doesn't depend on how large this process is.
        self.pid = os.posix_spawn(command[0], command, os.environ, setsigdef=[signal.SIGPIPE], file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, theirs, 1), (os.POSIX_SPAWN_DUP2, their_errors, 2)])
        os.close(theirs)
        os.close(their_errors)
        self.ended, self.status, self.usage = None, None, None

    def read(self, limit=LIMIT):
        """More output; False at its end."""
        if not select.select([self.out], [], [], limit)[0]:
            self.kill()
            raise RuntimeError(f"{' '.join(self.command)}: nothing for {limit} s after {self.output[-300:]!r}")
        more = os.read(self.out, 65536)
        if more and self.first_byte is None:
            self.first_byte = time.monotonic_ns()
        self.output += more
        return bool(more)

    def wait_for(self, pattern, limit=LIMIT):
        while not (found := re.search(pattern, self.output)):
            if not self.read(limit):
                self.wait()
                raise RuntimeError(f"{' '.join(self.command)}: ended without {pattern!r}: {self.what_it_said()}")
        return found

    def finish(self):
        """To the guest's end by debug-exit, which must say that its test has passed."""
        while self.read():
            pass
        self.wait()
        if b"result=pass" not in self.output or os.waitstatus_to_exitcode(self.status) != 1:
            raise RuntimeError(f"{' '.join(self.command)}: failed: {self.what_it_said()}")

    def wait(self):
        if self.ended is None:
            _, self.status, self.usage = os.wait4(self.pid, 0)
            self.ended = time.monotonic_ns()
            try:
                self.complaint = os.read(self.errors, 65536)
            except BlockingIOError:
                self.complaint = b""
            os.close(self.out)
            os.close(self.errors)

    def kill(self):
        if self.ended is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def what_it_said(self):
        return (self.output[-1000:] + self.complaint[-1000:]).decode("utf-8", "replace").strip() or "nothing"


def descendants(pid):
    found = [pid]
    for parent in found:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="utf-8") as children:
                    found += [int(child) for child in children.read().split()]
        except FileNotFoundError:
            pass
    return found


def memory_of(pid, ram_bytes):
    """KiB of a process and its children without the guest's RAM, by smaps: the RAM is what lies in mappings of at
    least its size, or in neighbours of the same kind that have it together."""
    total = {"pss": 0, "rss": 0, "private": 0, "ram": 0}
    parts = {}
    for process in descendants(pid):
        with open(f"/proc/{process}/smaps", encoding="utf-8", errors="replace") as smaps:
            text = smaps.read()
        for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text):
            head, *fields = block.splitlines()
            kib = {f.split(":")[0]: int(f.split()[1]) for f in fields if f.endswith(" kB")}
            words = head.split(None, 5)
            if kib["Size"] * 1024 >= ram_bytes and words[1].startswith("rw"):
                total["ram"] += kib["Rss"]
                total["ram_mapped"] = total.get("ram_mapped", 0) + kib["Size"]
                continue
            name = os.path.basename(words[5]) if len(words) > 5 else "anonymous"
            total["pss"] += kib["Pss"]
            total["rss"] += kib["Rss"]
            total["private"] += kib["Private_Clean"] + kib["Private_Dirty"]
            parts[name] = parts.get(name, 0) + kib["Pss"]
    if "ram_mapped" not in total:
        raise RuntimeError(f"no mapping of {ram_bytes} bytes in process {pid}: its RAM can't be told from the rest")
    largest = dict(sorted(parts.items(), key=lambda item: -item[1])[:12])
    return total, largest


def output_of(*command):
    """Standard output of a command that helps to describe the run; empty when it fails or is missing."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
