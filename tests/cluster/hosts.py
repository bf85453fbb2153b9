"""Whole hosts of a cluster, for tests and benchmarks that are more than a story: hosts.sh makes them and breaks them,
this leads it, asks their ferryds over the sockets, and looks at the machines' processes.

    with Hosts(3) as hosts:              a cluster of three, set up; skips the test where that can't be
        hosts.sh("power_off 2")          any function of lib.sh and hosts.sh
        hosts.call(1, "vm.list")         what host 1's ferryd answers; HostError when it doesn't
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("FERRY_BUILD", os.path.join(ROOT, "build"))
LIMIT = 180  # seconds within which what must come to be so has come, on the busiest of hosts
SLOW = 6  # seconds: the lease, and as much again
SHORT_LEASE = "--lease 2s --deadline 1500ms --stop 300ms --renew 300ms"

# The functions of hosts.sh, one command a line; "= STATUS" after what it said. Its standard input's end is the end.
LEADER = """
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/hosts.sh"
echo "= 0 $work $net"
while IFS= read -r command; do
    eval "$command" </dev/null
    echo "= $?"
done
"""


class HostError(Exception):
    """What a ferryd or a machine answered, or that it didn't."""


class Skipped(Exception):
    """These tests can't be had here; the line that says so."""


class Hosts:
    def __init__(self, count, lease=SHORT_LEASE, options="", environment=None):
        self.count, self.lock = count, threading.Lock()
        self.shell = subprocess.Popen(["sh", "-c", LEADER, os.path.join(ROOT, "tests/cluster/hosts.py")],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                      env=dict(os.environ, **(environment or {})))
        self.work, self.net = self._answer()[1].split()[1:3]
        self.off = set()  # hosts without power
        self.sh(f'lease_times="{lease}"')
        for host in range(1, count + 1):
            self.sh(f"facts {host} {options}")
        self.sh(f"hosts_start {count} {count - 1 + count % 2}", must=f"{count} hosts form a cluster")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.shell.poll() is None:
            self.shell.stdin.close()
            self.shell.wait()

    # ---- hosts ----

    def _answer(self):
        said = []
        for line in self.shell.stdout:
            if line.startswith("= "):
                return "".join(said), line.rstrip("\n")[2:]
            said.append(line)
        text = "".join(said)
        if "# SKIP" in text:
            raise Skipped(text.strip())
        raise RuntimeError(f"hosts.sh ended: {text[-500:]!r}")

    def sh(self, command, must=None):
        """What a function of hosts.sh prints; with `must` it has to succeed."""
        with self.lock:
            self.shell.stdin.write(command + "\n")
            self.shell.stdin.flush()
            said, status = self._answer()
        if must and status != "0":
            raise RuntimeError(f"{must}: it failed: {said[-500:]}\n{self.logs()}")
        return said.strip()

    def numbers(self):
        return range(1, self.count + 1)

    def power_off(self, host):
        if host not in self.off:
            self.off.add(host)
            self.sh(f"power_off {host}")

    def boot(self, host):
        if host in self.off:
            self.sh(f"host_boot {host}")
            self.off.discard(host)

    def ferryd(self, host):
        """Its process, or None."""
        return next((pid for pid, line in self.processes(host) if line[0].endswith("/ferryd")), None)

    def ferryd_start(self, host):
        if host not in self.off:
            self.sh(f"ferryd_runs {host} || ferryd_start {host}")

    def signal_ferryd(self, host, number):
        if number == signal.SIGCONT:  # nsenter stops with what it started
            self.sh(f'ferryd_continue {host} 2>/dev/null')
        elif pid := self.ferryd(host):
            send_signal(pid, number)

    def arm(self, host, point):
        """The host's ferryd, started with failure_points=yes, shall break there (NAME:ACTION); a function that tells
        whether it came there. Armed once at a time."""
        path = f"{self.work}/point{host}"
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(point)
        os.rename(f"{path}.new", path)
        return lambda: not os.path.exists(path)

    def disarm(self, host):
        """And what came there is about to break when this returns, or has."""
        try:
            os.unlink(f"{self.work}/point{host}")
        except FileNotFoundError:
            end = time.monotonic() + 2  # or somebody has it going on again
            while time.monotonic() < end and (pid := self.ferryd(host)) and not is_stopped(pid):
                time.sleep(0.02)

    def heal_links(self):
        for host in self.numbers():
            self.sh(f'ip netns exec "$net-{host}" nft flush chain inet cut in')

    def heal(self):
        """All that was broken works again."""
        self.heal_links()
        for host in self.numbers():
            self.boot(host)
            self.signal_ferryd(host, signal.SIGCONT)
            self.ferryd_start(host)
            for pid in self.machine_pids(host):
                send_signal(pid, signal.SIGCONT)

    def processes(self, host):
        """(pid, command line) of all that runs with the host's runtime directory."""
        wanted = f"{self.work}/run{host}".encode()
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if wanted in words and not words[0].endswith(b"nsenter"):
                yield int(entry), [word.decode(errors="replace") for word in words]

    def machine_pids(self, host, uuid=None):
        return [pid for pid, words in self.processes(host)
                if "--lease" in words and (uuid is None or uuid in words)]

    def logs(self, lines=25):
        text = []
        for host in self.numbers():
            path = f"{self.work}/log{host}"
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    text += [f"# h{host}: {line.rstrip()}" for line in file.readlines()[-lines:]]
        return "\n".join(text)

    # ---- asking ----

    def call(self, asked, method, /, timeout=5, **params):
        return control_call(f"{self.work}/run{asked}/.ferryd.sock", method, timeout, params)

    def call_any(self, method, /, avoid=(), **params):
        """Of the first host that answers."""
        why = HostError("no host has power")
        for host in self.numbers():
            if host in self.off or host in avoid:
                continue
            try:
                return self.call(host, method, timeout=3, **params)
            except HostError as error:
                why = error
        raise why

    def ferry(self, host, *words, check=True):
        """`ferry WORDS` with this host's ferryd: what it prints."""
        done = subprocess.run([f"{BUILD}/ferry", *words, "--runtime-dir", f"{self.work}/run{host}"], check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if check and done.returncode:
            raise HostError(f"ferry {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def create(self, name, append, *words, host=1, memory="64M"):
        return self.ferry(host, "vm", "create", name, "--kernel", f"{BUILD}/guest/testguest.elf", "--append", append,
                          "--memory", memory, "--restart", "always", *words)

    def machines(self, avoid=()):
        """By name, as the store has them."""
        return {m["name"]: m for m in self.call_any("vm.list", avoid)["machines"]}

    def alive(self):
        return sum(host["state"] == "alive" for host in self.call_any("cluster.hosts")["hosts"])

    def await_alive(self, limit=LIMIT):
        """Why not all hosts are back in that time, or None."""
        end, why = time.monotonic() + limit, "nobody was asked"
        while why and time.monotonic() < end:
            try:
                alive = self.alive()
                why = f"only {alive} of {self.count} hosts are back" if alive != self.count else None
            except HostError as error:
                why = str(error)
            if why:
                time.sleep(0.1)
        return why

    def leader(self):
        members = self.call_any("cluster.status")["members"]
        return next((int(m["name"][1:]) for m in members if m["role"] == "leader"), None)

    def query(self, host, uuid):
        """What the machine's process there says of itself, or None."""
        try:
            return control_call(f"{self.work}/run{host}/{uuid}/control.sock", "query", 3, {})
        except HostError:
            return None

    def hosts_that_run(self, uuid):
        return [(host, answer["lease"]["epoch"]) for host in self.numbers() if host not in self.off
                and (answer := self.query(host, uuid)) and answer.get("state") == "running" and "lease" in answer]

    def show(self, name):
        return self.call_any("vm.show", name=name)

    def why_not_settled(self, names):
        """None when each of the machines runs, once, where and as the record says, and isn't on the move."""
        for name in names:
            try:
                machine = self.show(name)
            except HostError as error:
                return str(error)
            stage = (machine.get("migration") or {}).get("stage")
            if machine["state"] != "running" or stage not in (None, "aborted"):
                return f"{name} is {machine['state']} on {machine.get('host')}, move {stage}: {machine.get('reason')}"
            running = self.hosts_that_run(machine["uuid"])
            if running != [(int(machine["host"][1:]), machine["epoch"])]:
                return f"{name} is of {machine['host']}, epoch {machine['epoch']}, and runs as (host, epoch) {running}"
        return None

    def await_settled(self, names, limit=LIMIT):
        """Why they didn't come to rest in that time, or None. What took long is said."""
        begun, told = time.monotonic(), None
        while (why := self.why_not_settled(names)) and time.monotonic() < begun + limit:
            if time.monotonic() > begun + SLOW and why != told:
                print(f"# after {time.monotonic() - begun:.0f} s {why}", flush=True)
                told = why
            time.sleep(0.1)
        return why

    def witnesses(self):
        """What is wrong by the witness files: lines, none when all is well."""
        folder = f"{self.work}/witness"
        files = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".witness")]
        done = subprocess.run([f"{BUILD}/tests/cluster/witness_check", *files], check=False, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
        return [] if done.returncode == 0 else done.stdout.splitlines()


class History:
    """Clients of the store that read and write while it is broken; they judge what they saw (history.c)."""

    def __init__(self, hosts, seed, clients=3, pause_ms=20):
        addresses = ",".join(f"10.77.0.{host}:7001" for host in hosts.numbers())
        self.child = subprocess.Popen(
            ["ip", "netns", "exec", f"{hosts.net}-hub", f"{BUILD}/tests/cluster/history", addresses, "3600",
             str(clients), str(seed), str(pause_ms)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.begins = self.child.stdout.readline().strip()  # before anything is broken

    def end(self):
        """Lines that say what is wrong."""
        self.child.send_signal(signal.SIGTERM)
        said = [self.begins, *self.child.communicate()[0].splitlines()]
        return said if self.child.returncode else []


def is_stopped(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "T"
    except OSError:
        return False


def send_signal(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def control_call(path, method, timeout, params):
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout)
        try:
            link.connect(path)
            link.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
            with link.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if answer.get("id") == 1:
                        if "error" in answer:
                            raise HostError(f"{method}: {answer['error'].get('message')}")
                        return answer["result"]
        except OSError as error:
            raise HostError(f"{method}: {path}: {error}") from error
    raise HostError(f"{method}: {path}: no answer")


def report(fine, name, more=()):
    """One line of TAP, and why."""
    print("\n".join([*(f"# {line}" for line in more), f"{'ok' if fine else 'not ok'} - {name}"]), flush=True)
    return fine


def end_properly():
    """TERM shall take the hosts along."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
