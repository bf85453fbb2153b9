#!/usr/bin/env python3
"""start_move.py SOCKET PARAMETERS: migrate.start at a machine's control socket, with the sockets that the move goes
through (docs/control.md); prints the answer. For parameters that `ferry migrate` has no option for."""

import json
import socket
import sys


def main():
    parameters = json.loads(sys.argv[2])
    count = parameters.get("streams", 1) + 2
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
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
