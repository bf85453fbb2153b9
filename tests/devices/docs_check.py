#!/usr/bin/env python3
"""Every test that docs/virtio.md names as proof of a MUST is there, under that name, in the file that it says."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NO_TESTS = {"virtqueue_chain_write", "driver_open", "run"}  # functions that the reasons name

tests = {}  # name of a test program's subject: its tests
for path in ROOT.glob("tests/unit/test_virtio_*.c"):
    subject = path.stem.removeprefix("test_virtio_")
    tests[subject] = set(re.findall(r"START_TEST\((\w+)\)", path.read_text()))

text = (ROOT / "docs/virtio.md").read_text()
table = text[text.index("## The device's MUSTs"):text.index("## Hostile guests")]
missing, rows = [], 0
for line in table.splitlines():
    cells = line.split("|")
    if len(cells) < 5 or not re.match(r" *\d", cells[1]):
        continue
    rows += 1
    subject = None
    for word in re.finditer(r"\b([a-z]+): |`(\w+)`", cells[3]):
        if word.group(1):
            subject = word.group(1) if word.group(1) in tests else subject
        elif subject and word.group(2) not in NO_TESTS and word.group(2) not in tests[subject]:
            missing.append(f"{cells[1].strip()}: {subject}: {word.group(2)}")

for line in missing:
    print(f"# no such test: {line}")
print(f"{'not ok' if missing or not rows else 'ok'} - {rows} MUSTs of docs/virtio.md name tests that there are")
sys.exit(1 if missing or not rows else 0)
