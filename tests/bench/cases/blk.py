"""virtio-blk: the same image behind ferry and QEMU (io_uring, an iothread), read and written by the test guest."""

import os
import re
import tempfile

import peers
from harness import Case, Guest, Metric

IMAGE_BYTES = 256 << 20
SECONDS = 1
state = {"image": None}


def begin():
    """All of the image is written: a hole is read without the disk."""
    with tempfile.NamedTemporaryFile(prefix="ferry-bench-blk-", dir=os.environ.get("BENCH_DISK_DIR", "/var/tmp"),
                                     delete=False) as image:
        for _ in range(IMAGE_BYTES >> 20):
            image.write(os.urandom(1 << 20))
        image.flush()
        os.fsync(image.fileno())
        state["image"] = image.name


def end():
    os.unlink(state["image"])


def ferry(append, cache):
    return peers.ferry(append, options=["--disk", f"{state['image']},cache={cache}"])


def qemu(append, cache):
    direct = "on" if cache == "none" else "off"
    return peers.qemu(peers.MICROVM_PCI, append, options=[
        "-blockdev", f"driver=file,filename={state['image']},node-name=image,aio=io_uring,cache.direct={direct}",
        "-object", "iothread,id=io", "-device", "virtio-blk-pci,drive=image,iothread=io"])


def measure(command_of, load, cache):
    guest = Guest(command_of(f"test=blk mode=bench seconds={SECONDS} {load}", cache))
    guest.finish()
    found = dict(re.findall(rb"(\w+)=(\d+)", guest.output.splitlines()[-1]))
    cpu = guest.usage.ru_utime + guest.usage.ru_stime
    return {"iops": int(found[b"iops"]), "mb_per_s": int(found[b"mb_per_s"]), "mean_us": int(found[b"mean_us"]),
            "p99_us": int(found[b"p99_us"]), "kicks_a_request": int(found[b"kicks"]) / int(found[b"requests"]),
            "interrupts_a_request": int(found[b"interrupts"]) / int(found[b"requests"]),
            "cpu_us_a_request": cpu * 1e6 / int(found[b"requests"])}


def case(cache, name, title, load, factor):
    metrics = [Metric("iops", "1/s", goal=(factor, "qemu"), at_least=True), Metric("mean_us", "us"),
               Metric("p99_us", "us"), Metric("cpu_us_a_request", "us"), Metric("kicks_a_request", ""),
               Metric("interrupts_a_request", "")]
    where = "past the host's page cache" if cache == "none" else "through the host's page cache"
    return Case(f"blk-{'direct' if cache == 'none' else 'cached'}-{name}", f"Disk: {title}, {where}", metrics,
                {"ferry": lambda: measure(ferry, load, cache), "qemu": lambda: measure(qemu, load, cache)},
                rounds=5, begin=begin, end=end)


LOADS = [
    ("read-1", "random reads of 4 KiB, one at a time", "op=read depth=1", 1.0),
    ("read-32", "random reads of 4 KiB, 32 at a time", "op=read depth=32", 1.3),
    ("write-1", "random writes of 4 KiB, one at a time", "op=write depth=1", 1.0),
    ("write-32", "random writes of 4 KiB, 32 at a time", "op=write depth=32", 1.3),
    ("read-1m", "1 MiB reads in sequence, 4 at a time", "op=read block=1m order=sequential depth=4", 1.0),
    ("write-1m", "1 MiB writes in sequence, 4 at a time", "op=write block=1m order=sequential depth=4", 1.0),
]

CASES = [case(cache, *load) for cache in ("writeback", "none") for load in LOADS]
