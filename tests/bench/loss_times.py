#!/usr/bin/env python3
"""loss_times: a host with machines loses its power; where the time goes until each runs elsewhere.

    tests/bench/loss_times.py [--machines N] [--leader]

Three hosts with a lease of 2 s (tests/cluster/hosts.py), all N (8) machines on one of them; with --leader it leads the
store. A line a machine, in seconds since the power went: the host is fenced, the machine is given to another host, its
start is committed there, its first instruction runs (witness file). The lease counts from the last renewal, up to a renewal
interval (0.3 s) before the power went.
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cluster"))
from hosts import BUILD, Hosts, Skipped, end_properly  # pylint: disable=wrong-import-position

VICTIM = 2


def when(line):
    text = re.match(r"(\S+)Z ", line).group(1)
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc).timestamp()


def first(lines, words, since):
    return next((when(line) for line in lines if words in line and when(line) > since), None)


def first_run(hosts, uuid):
    """Of the latest epoch, as a time of day."""
    said = subprocess.run([f"{BUILD}/tests/cluster/witness_check", f"{hosts.work}/witness/{uuid}.witness"], check=False,
                          stdout=subprocess.PIPE, text=True).stdout
    ran = [int(one) for one in re.findall(r"ran (\d+) to", said)]
    return ran[-1] / 1e9 + time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def gather(hosts, count):
    for host in hosts.numbers():
        if host != VICTIM:
            hosts.call_any("cluster.drain", host=f"h{host}")
    names = [f"m{number}" for number in range(count)]
    uuids = {name: hosts.create(name, "test=idle pulse=20") for name in names}
    if why := hosts.await_settled(names):
        raise RuntimeError(why)
    for host in hosts.numbers():
        hosts.call_any("cluster.undrain", host=f"h{host}")
    return uuids


def measure(hosts, count, leader):
    uuids = gather(hosts, count)
    wanted = f"h{VICTIM if leader else 1}"
    while hosts.sh("leader") != wanted:
        hosts.sh(f"store move-leader {wanted} >/dev/null 2>&1")
    lost = time.time()
    hosts.power_off(VICTIM)
    if why := hosts.await_settled(list(uuids)):
        raise RuntimeError(why)
    lines = []
    for host in hosts.numbers():
        if host != VICTIM:
            with open(f"{hosts.work}/log{host}", encoding="utf-8") as file:
                lines += [line for line in file if re.match(r"\S+Z ", line)]
    lines.sort(key=when)
    fenced = first(lines, f"host 'h{VICTIM}' was silent", lost)
    print(f"# load {os.getloadavg()[0]:.0f}; {'with' if leader else 'without'} the leader; seconds since the power went")
    print("# machine  fenced  given  start-committed  runs")
    for name, uuid in uuids.items():
        times = (fenced, first(lines, f"machine {uuid} goes to", lost), first(lines, f"({uuid}): starting", lost),
                 first_run(hosts, uuid))
        print(f"{name:9}" + "".join(f"{time_of - lost:8.2f}" for time_of in times))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=8)
    parser.add_argument("--leader", action="store_true")
    arguments = parser.parse_args()
    end_properly()
    try:
        with Hosts(3, options="--host-memory 4G --host-cpus 32") as hosts:
            measure(hosts, arguments.machines, arguments.leader)
    except Skipped as why:
        print(why)
    return 0


if __name__ == "__main__":
    sys.exit(main())
