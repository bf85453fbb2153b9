#!/usr/bin/env python3
"""Reads Prometheus' text format 0.0.4 from standard input and says what is wrong with it.

Beside the grammar: each metric has its HELP and TYPE before its samples, once, and its samples together; no sample
comes twice; a counter's name ends with _total, and only a counter's does.
"""

import re
import sys

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"^({NAME})(?:\{{({LABEL}(?:,{LABEL})*)?,?\}})? (-?[0-9.]+(?:e[+-]?[0-9]+)?|[+-]Inf|NaN)$")
HELP = re.compile(rf"^# HELP ({NAME}) (\S.*)$")
TYPE = re.compile(rf"^# TYPE ({NAME}) (counter|gauge|histogram|summary|untyped)$")


def problems(text):
    helped, types, done, seen, current = set(), {}, set(), set(), None
    if not text.endswith("\n"):
        yield "the last line has no end"
    for number, line in enumerate(text.splitlines(), 1):
        if match := HELP.match(line):
            if match[1] in helped:
                yield f"line {number}: a second HELP of {match[1]}"
            helped.add(match[1])
            if current:
                done.add(current)
            current = match[1]
        elif match := TYPE.match(line):
            name, kind = match[1], match[2]
            if name in types or name != current:
                yield f"line {number}: TYPE of {name} isn't behind its HELP, or comes twice"
            if (kind == "counter") != name.endswith("_total"):
                yield f"line {number}: {name} is a {kind}"
            types[name] = kind
        elif match := SAMPLE.match(line):
            name = match[1]
            if name != current or name not in types or name in done:
                yield f"line {number}: a sample of {name} away from its TYPE"
            if line.rsplit(" ", 1)[0] in seen:
                yield f"line {number}: a sample of before: {line}"
            seen.add(line.rsplit(" ", 1)[0])
        else:
            yield f"line {number}: neither comment nor sample: {line}"
    if not seen:
        yield "no sample at all"


found = list(problems(sys.stdin.read()))
for one in found:
    print(one)
sys.exit(1 if found else 0)
