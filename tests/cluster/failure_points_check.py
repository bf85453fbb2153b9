#!/usr/bin/env python3
"""failure_points_check: a failure point that no test names proves nothing. Each in the sources is named by a test, in
quotes, and those of ferryd by docs/cluster.md; and the tests and the page name none that isn't there. Prints TAP."""

import glob
import os
import re
import sys

os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
POINT = r"((?:agent|arbiter|manager|lease|source|target)(?:-[a-z]+)+)"
OTHERS = {"lease-lost"}  # words of the same form
TESTS = ("tests/cluster/move_states.py", "tests/cluster/random_runs.py", "tests/cluster/mutants.py", "tests/migrate/*.sh", "tests/migrate/*.py")


def read(*patterns):
    texts = []
    for pattern in patterns:
        for path in sorted(glob.glob(pattern, recursive=True)):
            if os.path.abspath(path) != os.path.abspath(__file__):
                with open(path, encoding="utf-8") as file:
                    texts.append(file.read())
    return texts


def in_sources(*patterns):
    """What is in quotes where failure points are passed."""
    return {name for text in read(*patterns) if "failure_point" in text for name in re.findall(f'"{POINT}"', text)} - OTHERS


def report(what, names):
    for name in sorted(names):
        print(f"# {name}")
    print(f"{'not ok' if names else 'ok'} - {what}")
    return not names


def main():
    ferryd, machines = in_sources("cluster/**/*.c"), in_sources("migrate/*.c")
    tests = "\n".join(read(*TESTS))
    page = "\n".join(read("docs/cluster.md"))
    listed = {name for row in re.findall(r"^\| (`[^|]*) \|", page, re.M) for name in re.findall(f"`{POINT}`", row)}
    used = set(re.findall(rf"[\"' =@]{POINT}(?=[\"':])", tests)) & (ferryd | machines)
    fine = [report(f"each of {len(ferryd | machines)} failure points is in a test", (ferryd | machines) - used),
            report("docs/cluster.md lists those of ferryd, and no others", ferryd ^ listed)]
    return 0 if all(fine) and ferryd and machines else 1


if __name__ == "__main__":
    sys.exit(main())
