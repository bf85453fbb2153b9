#!/usr/bin/env python3
"""arbiter.py RECORD LOG SCRIPT SOCKET...: an arbiter for tests of migrations.

It hears the questions of the machines whose control sockets are named, which may come to be later, and answers them
by a record that it keeps in the file RECORD: switching, done or aborted. SCRIPT: `plain` answers by the record;
`deaf` hears and decides, but never answers; `aborted` begins with an aborted record. Each question is a line in LOG.
"""

import json
import os
import socket
import sys
import threading
import time

record_path, log_path, script, sockets = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
lock = threading.Lock()


def write_record(value):
    with open(record_path + ".new", "w") as file:
        file.write(value + "\n")
    os.rename(record_path + ".new", record_path)


def decide(ask):
    with lock:
        record = open(record_path).read().strip()
        if record == "switching" and ask != "outcome":
            record = "done" if ask == "commit" else "aborted"
            write_record(record)
        return {"switching": "unknown", "done": "target", "aborted": "source"}[record]


def serve(path):
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            lines = connection.makefile("rw")
            lines.write('{"id":1,"method":"events.subscribe"}\n')
            lines.flush()
            for line in lines:
                message = json.loads(line)
                if message.get("event") != "migration.ask":
                    continue
                data = message["data"]
                decision = decide(data["ask"])
                with lock, open(log_path, "a") as log:
                    log.write(f"{data['role']} {data['epoch']} {data['ask']} {decision}\n")
                if script == "deaf":
                    continue
                answer = {"migration_id": data["migration_id"], "ask": data["ask"], "decision": decision}
                lines.write(json.dumps({"id": 2, "method": "migration.decide", "params": answer}) + "\n")
                lines.flush()
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()


write_record("aborted" if script == "aborted" else "switching")
for place in sockets:
    threading.Thread(target=serve, args=(place,), daemon=True).start()
threading.Event().wait()
