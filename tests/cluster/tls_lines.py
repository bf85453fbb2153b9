#!/usr/bin/env python3
"""Speaks TLS with a ferryd as none of its own programs would.

    tls_lines.py HOST:PORT ALPN [DIR] [--lines N]

Sends what is on standard input, prints what comes, until the other side closes or N lines came. DIR has the
certificate to show (cert.pem, key.pem). Nothing that the other side shows is checked. Ends with 1 after half a minute.
"""
import argparse
import socket
import ssl
import sys

parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("protocol")
parser.add_argument("directory", nargs="?")
parser.add_argument("--lines", type=int, default=0)
args = parser.parse_args()

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols([args.protocol])
if args.directory:
    context.load_cert_chain(args.directory + "/cert.pem", args.directory + "/key.pem")
host, port = args.address.rsplit(":", 1)
seen = 0
try:
    with context.wrap_socket(socket.create_connection((host, int(port)), 30)) as stream:
        stream.settimeout(30)
        try:
            stream.sendall(sys.stdin.buffer.read())
        except OSError:
            pass  # cut off meanwhile: what it said first still comes
        while not args.lines or seen < args.lines:
            data = stream.recv(65536)
            if not data:
                break
            seen += data.count(b"\n")
            sys.stdout.write(data.decode("utf-8", "replace"))
            sys.stdout.flush()
except TimeoutError:
    sys.exit(1)
except OSError as error:
    print("closed:", error)
