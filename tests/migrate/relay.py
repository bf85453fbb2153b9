#!/usr/bin/env python3
"""relay.py TARGET-PORT CHANGE: stands between a source and its target on the control connection, and changes what passes.

    cpu      the source's machine has CPU features that the target lacks (one that AMD has never had, one that Intel hasn't)
    kvm      and KVM features
    newer    the source is of a later version: keys, a state part and fields more, which may be left out
    strange  the same, but they may not
    version  the source speaks another major version

Prints the port where it listens.
"""

import json
import socket
import struct
import sys
import threading

HELLO, DESCRIBE, STATE = 1, 4, 11
U32, OPTIONAL = 3, 1


def string(text):
    return struct.pack("<I", len(text)) + text.encode()


def take_blob(data, at):
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4:at + 4 + length], at + 4 + length


def describe(contents, change):
    what = json.loads(contents)
    leaves = what["cpuid"]  # [leaf, subleaf, flags, eax, ebx, ecx, edx]
    if change == "cpu":
        for entry in leaves:
            if entry[0] == 7 and entry[1] == 0:
                entry[4] |= 1 << 4 | 1 << 14  # HLE, MPX
    if change == "kvm":
        for entry in leaves:
            if entry[0] == 0x40000001:
                entry[3] |= 1 << 30
    if change == "newer":
        what["of_later"] = {"more": [1, 2, 3]}
        what["version"] = "9.9.9"
    return json.dumps(what).encode()


def one_field_more(section, flags):
    """The section with a field behind its name, version and number of fields."""
    name, at = take_blob(section, 0)
    version, count = struct.unpack_from("<HH", section, at)
    field = string("of_later") + struct.pack("<BBII", U32, flags, 1, 42)
    return string(name.decode()) + struct.pack("<HH", version, count + 1) + field + section[at + 4:]


def state(contents, flags):
    """Behind round and running: parts of name, flags, blob, up to one without a name."""
    out, at = contents[:5], 5
    while True:
        name, at = take_blob(contents, at)
        if not name:
            break
        part_flags = contents[at]
        blob, at = take_blob(contents, at + 1)
        blob = one_field_more(blob, flags)
        out += string(name.decode()) + bytes([part_flags]) + struct.pack("<I", len(blob)) + blob
    if flags:
        out += string("device-of-later") + bytes([OPTIONAL]) + struct.pack("<I", 3) + b"abc"
    return out + contents[at - 4:]


def changed(kind, contents, change):
    if kind == HELLO and change == "version":
        return contents[:8] + struct.pack("<H", 2) + contents[10:]
    if kind == HELLO and change == "newer":
        return contents[:10] + struct.pack("<H", 7) + contents[12:]
    if kind == DESCRIBE:
        return describe(contents, change)
    if kind == STATE and change in ("newer", "strange"):
        return state(contents, OPTIONAL if change == "newer" else 0)
    return contents


def receive(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def to_target(source, target, change):
    try:
        while True:
            kind, length = struct.unpack("<II", receive(source, 8))
            contents = changed(kind, receive(source, length), change)
            target.sendall(struct.pack("<II", kind, len(contents)) + contents)
    except (EOFError, OSError):
        target.shutdown(socket.SHUT_WR)


def main():
    port, change = int(sys.argv[1]), sys.argv[2]
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    source, _ = listener.accept()
    target = socket.create_connection(("127.0.0.1", port))
    threading.Thread(target=to_target, args=(source, target, change), daemon=True).start()
    while more := target.recv(65536):
        source.sendall(more)
    source.shutdown(socket.SHUT_WR)


main()
