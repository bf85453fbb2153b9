#!/usr/bin/env python3
"""docs_check.py: every section and field of the state is in docs/state-format.md, with its type and count, and every
failure point and frame of a migration in docs/migration.md, and nothing that isn't there. Prints TAP.

The KVM parts are read from what version 1 wrote (tests/golden), the devices' from the tables in their sources.
`docs_check.py --print` prints the tables, for pasting.
"""

import glob
import os
import re
import struct
import sys

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
TYPES = {1: "u8", 2: "u16", 3: "u32", 4: "u64", 5: "bool"}
WIDTHS = {1: 1, 2: 2, 3: 4, 4: 8, 5: 1}


def string(data, at):
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4:at + 4 + length].decode(), at + 4 + length


def golden_section(path):
    with open(path, "rb") as file:
        data = file.read()
    name, at = string(data, 0)
    version, count = struct.unpack_from("<HH", data, at)
    at += 4
    fields = []
    for _ in range(count):
        field, at = string(data, at)
        kind, _, elements = struct.unpack_from("<BBI", data, at)
        at += 6 + elements * WIDTHS[kind]
        fields.append((field, TYPES[kind] + (f" x {elements}" if elements > 1 else "")))
    return name, version, fields


def source_sections(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    tables = dict(re.findall(r"static const struct state_field (\w+)\[\] = \{(.*?)\n\};", text, re.S))
    found = re.findall(r"struct state_section \w+\s*=\s*\{\s*\.name = \"([^\"]+)\",\s*\.version = (\d+),\s*"
                       r"\.fields = (\w+)", text)
    for name, version, table in found:
        fields = []
        for shape, kind, member in re.findall(r"STATE_(FIELD|ARRAY)\(STATE_(\w+), struct \w+, ([^)]+)\)",
                                              tables[table]):
            fields.append((member.strip(), kind.lower() + (" x N" if shape == "ARRAY" else "")))
        yield name, int(version), fields


def all_sections():
    for name in ("clock", "irqchip", "vcpu"):
        yield golden_section(f"tests/golden/{name}.1")
    for path in sorted(glob.glob("devices/**/*.c", recursive=True)):
        yield from source_sections(path)


def table(name, version, fields):
    lines = [f"### {name} (version {version})", "", "| field | type |", "|---|---|"]
    return "\n".join(lines + [f"| `{field}` | {kind} |" for field, kind in fields])


def documented(text):
    sections = {}
    for head, body in re.findall(r"^### (\S+) \(version \d+\)\n(.*?)(?=^##|\Z)", text, re.S | re.M):
        sections[head] = re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", body, re.M)
    return sections


def names_in_sources(pattern):
    found = set()
    for path in glob.glob("migrate/*.[ch]"):
        with open(path, encoding="utf-8") as file:
            found |= set(re.findall(pattern, file.read()))
    return found


def main():
    sections = list(all_sections())
    if "--print" in sys.argv:
        print("\n\n".join(table(*section) for section in sections))
        return 0
    with open("docs/state-format.md", encoding="utf-8") as file:
        known = documented(file.read())
    with open("docs/migration.md", encoding="utf-8") as file:
        migration = file.read()
    failures = 0
    for name, _, fields in sections:
        good = known.pop(name, None)
        wrong = [f for f in fields if good is None or f not in good] + [f for f in good or [] if f not in fields]
        print(f"{'not ok' if wrong else 'ok'} - docs/state-format.md has section {name}")
        for field in wrong:
            print(f"# not the same: {field}")
        failures += bool(wrong)
    lacking = [n for n in names_in_sources(r'failure_point\((?:s, |t, )?"([a-z-]+)"') if f"`{n}`" not in migration]
    lacking += [n for n in names_in_sources(r'"(source-(?:first-)?round)"') if f"`{n}`" not in migration]
    frames = names_in_sources(r"MIGRATE_([A-Z_]+) = \d+, *(?://|\n)") - {"VERSION_MAJOR", "VERSION_MINOR", "MINOR_COMING"}
    lacking += [n for n in frames if not n.endswith(("SIZE", "LIMIT", "CHUNK")) and n not in migration]
    lacking += [f"{n} is in no source" for n in known]
    print(f"{'not ok' if lacking else 'ok'} - docs/migration.md has every failure point and frame")
    for name in lacking:
        print(f"# {name}")
    return 1 if failures or lacking else 0


if __name__ == "__main__":
    sys.exit(main())
