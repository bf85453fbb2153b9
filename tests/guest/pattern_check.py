#!/usr/bin/env python3
"""pattern_check.py MEMORY OUTPUT: checks a stopped guest's pattern range (docs/guest.md).

MEMORY holds the whole range; OUTPUT what the guest printed. Each vCPU's part may have one edge, where the first bytes
fall by one; every page names its own address; the marker lies in the page where the walk is, or a little behind.
"""

import re
import struct
import sys

MAGIC = 0x5059525245460001
PAGE = 4096


def part_check(memory, base, gpa, pages):
    counts = [memory[gpa - base + i * PAGE] for i in range(pages)]
    edges = [i for i in range(1, pages) if counts[i] != counts[i - 1]]
    if len(edges) > 1 or any((counts[i - 1] - counts[i]) % 256 != 1 for i in edges):
        return f"edges at pages {edges[:10]} of {pages}"
    for i in range(pages):
        (address,) = struct.unpack_from("<Q", memory, gpa - base + i * PAGE + 8)
        if address != gpa + i * PAGE:
            return f"page {i} says that it is {address:#x}, not {gpa + i * PAGE:#x}"
    magic, _, marked, passes, position = struct.unpack_from("<5Q", memory, gpa - base + 64)
    if magic != MAGIC or marked != pages:
        return f"no marker: magic {magic:#x}, {marked} pages"
    done = edges[0] if edges else 0
    if edges and (position > done or counts[0] != (passes + 1) % 256):
        return f"marker says {position} pages of pass {passes}, the edge is at {done}, first count {counts[0]}"
    return None


def main():
    with open(sys.argv[1], "rb") as file:
        memory = file.read()
    with open(sys.argv[2], encoding="utf-8") as file:
        parts = re.findall(r"pattern cpu=\d+ gpa=(0x[0-9a-f]+) pages=(\d+)", file.read())
    base = int(parts[0][0], 16)
    errors = [e for e in (part_check(memory, base, int(gpa, 16), int(pages)) for gpa, pages in parts) if e]
    for error in errors:
        print(error)
    print(f"{len(parts)} parts, {len(errors)} wrong")
    return 1 if errors or not parts else 0


if __name__ == "__main__":
    sys.exit(main())
