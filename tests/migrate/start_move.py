#!/usr/bin/env python3
"""start_move.py SOCKET PARAMETERS [FAMILY TYPE COUNT]: migrate.start at a machine's control socket, with the sockets that
the move goes through (docs/control.md), or with others (names as in the module socket); prints the answer. For
parameters that `ferry migrate` has no option for."""

import json
import socket
import sys


def main():
    parameters = json.loads(sys.argv[2])
    family, kind, count = sys.argv[3:] or ["AF_INET", "SOCK_STREAM", parameters.get("streams", 1) + 2]
    count = int(count)
    sockets = [socket.socket(getattr(socket, family), getattr(socket, kind)) for _ in range(count)]
    parameters["sockets"] = [{"fd": i} for i in range(count)]
    request = {"id": 1, "method": "migrate.start", "params": parameters, "fds": count}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(60)
        control.connect(sys.argv[1])
        socket.send_fds(control, [json.dumps(request).encode() + b"\n"], [s.fileno() for s in sockets])
        lines = control.makefile("r", encoding="utf-8")
        lines.readline()  # hello
        print(lines.readline(), end="")


main()
