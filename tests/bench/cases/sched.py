"""Time slicing: ferry's own slicer beside control groups and beside no control, all in one run.

Errors are of CPU time, in per cent of what is wished for. `overhead` is the work lost against a machine that has the
CPUs for itself, measured right before and after: in all, which has what the host's other programs took in it as well, and
by CPU time alone. Each measurement keeps how CPU time went to whom over the window, which is plotted."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

from harness import FERRY, GUEST, Case, Guest, Metric, Unavailable

WINDOW, STEP = 8.0, 0.25  # seconds
WEIGHTS = {"w1": 100, "w2": 200, "w4": 400}
SLICE_US = 3000
BUSY, SLEEPY = "test=spin seconds=0", "test=spin seconds=0 sleep_us=10000 work=1000 report=4"
LIGHT = "test=spin seconds=0 sleep_us=10000 work=200 report=4"
# The host's other work shall be in nobody's way: a control group for all subjects that has nearly all of the CPUs, or a
# nice value, which says nothing of the groups that machines make.
GROUP, GROUP_SHARES, NICE = "/sys/fs/cgroup/cpu/ferry-bench", 262144, -15


class Host:
    """A runtime directory with machines in it, all on the same CPUs."""

    def __init__(self, backend, cpus="0"):
        self.backend, self.cpus = backend, cpus
        self.folder = tempfile.mkdtemp(prefix="ferry-bench-")
        self.environment = dict(os.environ, FERRY_RUNTIME_DIR=self.folder)
        self.pids = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # By their environment: one whose start was interrupted has no name yet that it could be called by.
        mark, us = f"FERRY_RUNTIME_DIR={self.folder}".encode(), os.getpid()
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != us]:
            try:
                with open(f"/proc/{pid}/environ", "rb") as environment:
                    if mark in environment.read().split(b"\0"):
                        os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # it has ended, or isn't ours
        shutil.rmtree(self.folder, ignore_errors=True)

    def ferry(self, *words):
        done = subprocess.run([FERRY, *words], env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ferry {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def start(self, name, append, *options):
        command = ["run", name, "--detach", "--kernel", GUEST, "--memory", "32M", "--append", append]
        if self.backend == "none":
            command = ["taskset", "-c", self.cpus, FERRY, *command]
        else:
            command = [FERRY, *command, "--cpu-affinity", self.cpus, "--cpu-backend", self.backend, *options]
        self.pids[name] = None  # from now on there is something to end, also when this is interrupted
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(done.stderr.strip()[:200])
        self.pids.update({m["name"]: m["pid"] for m in json.loads(self.ferry("ps", "--format", "json"))})

    def used(self, name):
        """ns of CPU of a machine: one system call, so that several are read at the same moment."""
        return time.clock_gettime_ns((~self.pids[name]) << 3 | 2)

    def log(self, name):
        return self.ferry("logs", name)


def follow(host, seconds=WINDOW, names=None):
    """CPU time of each machine, again and again: points {t, name: ns}."""
    points, start = [], time.monotonic()
    while not points or points[-1]["t"] < seconds:
        points.append({"t": time.monotonic() - start, **{name: host.used(name) for name in names or host.pids}})
        time.sleep(STEP)
    return points


def wished(weights, total, most):
    """What each should have of `total` by weight, none more than `most`."""
    wishes, left = {}, dict(weights)
    while left:
        whole = [name for name in left if left[name] * total > most * sum(left.values())]
        if not whole:
            return wishes | {name: total * weight / sum(left.values()) for name, weight in left.items()}
        for name in whole:
            wishes[name] = most
            total -= most
            del left[name]
    return wishes


def share_error(points, weights, cpus=1):
    """The largest error of a share, in per cent of it. The others of `points` sleep most of the time and have had what
    they wanted; what is left is by weight, but none of them, with one vCPU each, can have more than what one CPU gave."""
    used = {name: points[-1][name] - points[0][name] for name in points[0] if name != "t"}
    wishes = wished(weights, sum(used[name] for name in weights), sum(used.values()) / cpus)
    return max(abs(used[name] / wishes[name] - 1) * 100 for name in weights)


def late(host, names):
    """Wake-ups' p50 and p99 of the sleeper that has the worst, in us."""
    found = [re.findall(r"late_p50_us=(\d+) late_p99_us=(\d+)", host.log(name)) for name in names]
    return {"wake_p50_us": max(int(f[-1][0]) for f in found if f), "wake_p99_us": max(int(f[-1][1]) for f in found if f)}


def work(host):
    """Loops a second of all machines, by the guests' own reports."""
    reports = {}
    for name in host.pids:
        for cpu, loops, ms in re.findall(r"spin cpu=(\d+) loops=(\d+) ms=(\d+)", host.log(name)):
            reports.setdefault((name, cpu), []).append((int(loops), int(ms)))
    return sum((r[-1][0] - r[0][0]) / (r[-1][1] - r[0][1]) * 1000 for r in reports.values() if len(r) > 1)


def work_alone(cpus):
    """The same of one machine that has the CPUs for itself, and the CPU time it used a second."""
    with Host("none", cpus) as host:
        host.start("alone", BUSY, "--cpus", "2" if "-" in cpus else "1")
        time.sleep(1)
        points = follow(host, 3)
        time.sleep(1)
        return work(host), (points[-1]["alone"] - points[0]["alone"]) / points[-1]["t"]


def shared(host, points):
    """The same of all machines of a host."""
    return work(host), sum(points[-1][name] - points[0][name] for name in host.pids) / points[-1]["t"]


def overhead(before, between, after):
    work, used = (before[0] + after[0]) / 2, (before[1] + after[1]) / 2
    return {"overhead": (1 - between[0] / work) * 100,
            "overhead_of_cpu_time": (1 - between[0] / between[1] / (work / used)) * 100}


# ---- what is measured ----


def measure_shares(backend, cpus="0"):
    alone = work_alone(cpus)
    with Host(backend, cpus) as host:
        for name, weight in WEIGHTS.items():
            host.start(name, BUSY, "--cpu-weight", str(weight))
        host.start("sleepy", SLEEPY)
        time.sleep(1)
        points = follow(host)
        time.sleep(1)  # for the last reports
        found = {"share_error": share_error(points, WEIGHTS, 2 if "-" in cpus else 1), **late(host, ["sleepy"]),
                 "series": points}
        between = shared(host, points)
    return found | overhead(alone, between, work_alone(cpus))


def measure_machines(count):
    def measure(backend):
        alone = work_alone("0-1")
        with Host(backend, "0-1") as host:
            weights, sleepers = {}, []
            for i in range(count):
                if i % 4 == 3:
                    sleepers.append(f"sleepy{i}")
                    host.start(sleepers[-1], LIGHT, "--cpu-weight", "400")
                else:
                    name = f"busy{i}"
                    weights[name] = (100, 200, 400)[len(weights) % 3]
                    host.start(name, BUSY, "--cpu-weight", str(weights[name]), "--cpus", "1" if count > 1 else "2")
            time.sleep(2)
            points = follow(host, WINDOW if count < 32 else 4 * WINDOW)
            time.sleep(1)
            found, between = {"series": points}, shared(host, points)
            if sleepers:
                found |= {"share_error": share_error(points, weights, 2), **late(host, sleepers)}
        return found | overhead(alone, between, work_alone("0-1"))
    return measure


def measure_changes(backend):
    """Machines that come, go, are paused, stopped and killed: the worst error of all the times between."""
    errors, series = [], []
    with Host(backend) as host:
        def phase(weights):
            time.sleep(0.3)
            points = follow(host, 3, list(weights))
            errors.append(share_error(points, weights))
            begin = time.monotonic() - start - points[-1]["t"] - STEP
            series.extend({**point, "t": point["t"] + begin} for point in points)

        start = time.monotonic()
        for name in ("w1", "w2"):
            host.start(name, BUSY, "--cpu-weight", str(WEIGHTS[name]))
        time.sleep(1)
        phase({"w1": 100, "w2": 200})
        host.start("w4", BUSY, "--cpu-weight", "400")
        time.sleep(0.5)
        phase(WEIGHTS)
        host.ferry("pause", "w4")
        phase({"w1": 100, "w2": 200})
        host.ferry("resume", "w4")
        phase(WEIGHTS)
        os.kill(host.pids["w2"], signal.SIGSTOP)
        phase({"w1": 100, "w4": 400})
        os.kill(host.pids["w2"], signal.SIGCONT)
        phase(WEIGHTS)
        os.kill(host.pids["w1"], signal.SIGKILL)
        phase({"w2": 200, "w4": 400})
        return {"share_error": max(errors), "errors": errors, "series": series}


def measure_caps(backend):
    if backend == "none":
        raise Unavailable("there is no cap without control")
    found, series = {}, []
    for per_cent, cpus in ((25, 1), (50, 1), (150, 2)):
        with Host(backend, "0" if cpus == 1 else "0-1") as host:
            host.start(f"cap{per_cent}", BUSY, "--cpu-cap", f"{per_cent}%", "--cpus", str(cpus))
            time.sleep(1)
            points = follow(host, WINDOW / 2)
            used = (points[-1][f"cap{per_cent}"] - points[0][f"cap{per_cent}"]) / 1e7 / points[-1]["t"]
            found |= {f"used_{per_cent}": used, f"error_{per_cent}": abs(used / per_cent - 1) * 100}
            series += points
    return {**found, "series": series}


def write(path, value):
    with open(path, "w", encoding="utf-8") as file:
        file.write(str(value))


def work_by_cpu_time(guests):
    loops = seconds = 0
    for guest in guests:
        guest.finish()
        loops += int(re.search(rb"test=spin .*loops=(\d+)", guest.output)[1])
        seconds += guest.usage.ru_utime + guest.usage.ru_stime
    return loops / seconds


def measure_cost(backend):
    """Work by CPU time of two machines of a backend on one CPU, beside two others on another CPU that nobody controls, so
    that what the host does to the speed of its CPUs meets both; then with the CPUs changed."""
    asked = [] if backend == "none" else ["--cpu-backend", backend, "--cpu-weight", "100"]
    ratios = []
    with Host(backend) as host:
        host.start("probe", "test=hello")  # says what this host lacks
        for place, other in (("0", "1"), ("1", "0")):
            def run(name, cpu, *options):
                return Guest(["/usr/bin/env", f"FERRY_RUNTIME_DIR={host.folder}", "taskset", "-c", cpu, FERRY, "run", name,
                              "--kernel", GUEST, "--memory", "32M", "--debug-exit", "--append",
                              f"test=spin seconds={WINDOW:.0f} exit=debug", *options])

            controlled = [run(f"controlled{i}", place, *asked) for i in range(2)]
            free = [run(f"free{i}", other) for i in range(2)]
            try:
                ratios.append(work_by_cpu_time(controlled) / work_by_cpu_time(free))
            finally:
                for guest in controlled + free:
                    guest.kill()
    return {"cost": (1 - (ratios[0] * ratios[1]) ** 0.5) * 100}


def begin():
    try:
        write(f"{os.path.dirname(GROUP)}/cpu.shares", 1024)  # version 1, or there's no such file
        os.makedirs(GROUP, exist_ok=True)
        write(f"{GROUP}/cpu.shares", GROUP_SHARES)
        write(f"{GROUP}/cgroup.procs", os.getpid())
        return
    except OSError:
        pass
    try:
        os.nice(NICE)
    except PermissionError:
        print("bench: no right to a better nice value: other work on this host is in the way", flush=True)


def end():
    try:
        write(f"{os.path.dirname(GROUP)}/cgroup.procs", os.getpid())
        for folder, _, _ in os.walk(GROUP, topdown=False):
            os.rmdir(folder)
        return
    except OSError:
        pass
    try:
        os.nice(-NICE)
    except OSError:
        pass


def case(name, title, metrics, measurement, rounds):
    subjects = {subject: lambda backend=backend: measurement(backend) for subject, backend in
                (("ferry", "own"), ("cgroup1", "cgroup1"), ("cgroup2", "cgroup2"), ("none", "none"))}
    return Case(name, title, metrics, subjects, rounds=rounds, begin=begin, end=end)


ERROR = [Metric("share_error", "%", goal=1)]
WAKES = [Metric("wake_p50_us", "us"), Metric("wake_p99_us", "us", goal=2 * SLICE_US)]
COST = [Metric("overhead", "%"), Metric("overhead_of_cpu_time", "%")]

CASES = [
    case("sched-shares", "Weights 1:2:4 and a sleeper on one CPU", ERROR + WAKES + COST, measure_shares, 5),
    case("sched-shares-2", "Weights 1:2:4 and a sleeper on two CPUs", ERROR + WAKES + COST,
         lambda backend: measure_shares(backend, "0-1"), 3),
    case("sched-machines-1", "One machine with two vCPUs on two CPUs", COST, measure_machines(1), 3),
    case("sched-machines-8", "8 machines on two CPUs: weights 1:2:4, every fourth a sleeper", ERROR + WAKES + COST,
         measure_machines(8), 3),
    case("sched-machines-32", "32 machines on two CPUs: weights 1:2:4, every fourth a sleeper", ERROR + WAKES + COST,
         measure_machines(32), 3),
    case("sched-cost", "Work by CPU time that control costs two machines on one CPU",
         [Metric("cost", "%", goal=1)], measure_cost, 5),
    case("sched-changes", "Weights 1:2:4 on one CPU while machines come, are paused, stopped and killed", ERROR,
         measure_changes, 3),
    case("sched-caps", "Caps of 25, 50 and 150 % of one machine alone: error of what it used",
         [Metric(f"error_{c}", "%", goal=1) for c in (25, 50, 150)] + [Metric(f"used_{c}", "%") for c in (25, 50, 150)],
         measure_caps, 3),
]
