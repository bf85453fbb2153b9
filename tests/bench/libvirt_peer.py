"""QEMU through libvirt: two daemons, one a host, and a client of both (tests/compare). libvirt's part of a move is the
target's start before it and the clean-up after it; what is compared is QEMU's own time, from its first to its last word."""

import json
import os
import shutil
import subprocess
import time

import peers
from harness import BUILD, GUEST, ROOT, Unavailable
from link import ADDRESSES

CLIENT = os.path.join(BUILD, "tests/compare/libvirt_machine")
SIDE = os.path.join(ROOT, "tests/compare/libvirt_side.sh")
CONSOLE = "/var/log/libvirt/console"
DAEMON_LIMIT = 120  # seconds
CLIENT_LIMIT = 600  # the first start asks QEMU what it can do, and a move of 4 GiB takes long

DOMAIN = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>bench</name>
  <memory unit='KiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='microvm'>hvm</type>
    <kernel>{kernel}</kernel>
    <cmdline>{append} exit=debug</cmdline>
  </os>
  <cpu mode='host-passthrough' check='none'>
    <feature policy='disable' name='arch-capabilities'/>
  </cpu>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'>
      <source path='{console}'/>
      <target type='isa-serial' port='0'/>
    </serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-machine'/><qemu:arg value='{machine_options}'/>
    <qemu:arg value='-device'/><qemu:arg value='isa-debug-exit,iobase=0xf4'/>
  </qemu:commandline>
</domain>
"""


def bytes_of(size):
    return int(size[:-1]) << {"M": 20, "G": 30}[size[-1]]


def make_certificates(folder, target):
    """The files that QEMU looks for, from those of link.certificates()."""
    os.makedirs(target)
    for name, source in (("ca-cert", "ca.pem"), ("server-cert", "pem"), ("server-key", "key"), ("client-cert", "pem"),
                         ("client-key", "key")):
        shutil.copy(os.path.join(folder, source), os.path.join(target, f"{name}.pem"))


class Daemons:
    """One on each of the two hosts; `tls`: with the certificates in the hosts' folder."""

    def __init__(self, hosts, tls=False):
        if not peers.QEMU or not shutil.which("libvirtd"):
            raise Unavailable("libvirtd or QEMU is not installed (scripts/setup bench)")
        if not os.path.exists(CLIENT):
            raise Unavailable("libvirt_machine is not built (needs libvirt-dev: scripts/setup bench)")
        self.hosts = hosts
        self.places = [os.path.join(hosts.folder, f"libvirt-{side}") for side in "ab"]
        # One path to both daemons, which see different folders there.
        self.consoles = [place + CONSOLE for place in self.places]
        self.sockets = [os.path.join(place, "run/libvirt/libvirt-sock") for place in self.places]
        processes = []
        for index, (side, place) in enumerate(zip("ab", self.places)):
            os.mkdir(place)
            cache = os.path.join(BUILD, f"bench/libvirt-cache-{side}")
            os.makedirs(cache, exist_ok=True)
            os.symlink(cache, os.path.join(place, "cache"))
            if tls:
                make_certificates(hosts.folder, os.path.join(place, "tls"))
            with open(os.path.join(place, "said"), "w", encoding="utf-8") as said:
                processes.append(hosts.start(
                    index, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", SIDE, place,
                    f"bench-{side}", stdout=said, stderr=said))
        for place, socket, process in zip(self.places, self.sockets, processes):
            give_up = time.monotonic() + DAEMON_LIMIT
            while not os.path.exists(socket):
                if time.monotonic() > give_up or process.poll() is not None:
                    raise RuntimeError(f"libvirtd does not listen: {self.complaints(place)}")
                time.sleep(0.02)

    @staticmethod
    def complaints(place):
        text = ""
        for name in ("said", "log"):
            try:
                with open(os.path.join(place, name), encoding="utf-8", errors="replace") as file:
                    text += file.read()[-1000:]
            except OSError:
                pass
        return text or "it said nothing"

    def connection(self, index):
        return f"qemu+unix:///system?socket={self.sockets[index]}"

    def start(self, append, memory):
        path = os.path.join(self.hosts.folder, "domain.xml")
        machine, machine_options = peers.MICROVM.split(",", 1)
        assert machine == "microvm"
        with open(path, "w", encoding="utf-8") as file:
            file.write(DOMAIN.format(memory=bytes_of(memory) >> 10, kernel=GUEST, append=append, qemu=peers.QEMU,
                                     console=CONSOLE, machine_options=machine_options))
        self.client(0, "start", self.connection(0), path)

    def move(self, **options):
        """From the first host to the second; libvirt's figures."""
        return json.loads(self.client(1, "move", self.connection(0), "bench", self.connection(1),
                                      f"tcp://{ADDRESSES[1]}:49152", *[f"{name}={value}" for name, value in options.items()]))

    def client(self, concerned, *command):
        """`concerned`: whose log is shown when it fails."""
        done = subprocess.run([CLIENT, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=CLIENT_LIMIT, check=False)
        if done.returncode:
            raise RuntimeError(f"{done.stderr.strip()}; {self.complaints(self.places[concerned])}")
        return done.stdout
