#!/usr/bin/env python3
"""Throughput of `bessemer sandbox serve` over kept connections, in turn with bare `python3 -I -S`, everything on one core.

Usage: service.py BESSEMER [REPETITIONS [SECONDS]]     make bench-service
BESSEMER_CGROUP=off measures tier B where control groups could be used.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

CODE = "import sys\nprint(sum(map(int, sys.stdin.read().split())))\n"
STDIN = " ".join(map(str, range(100)))
BODY = json.dumps({"code": CODE, "language": "python", "stdin": STDIN, "run_timeout": 10})


def rate(seconds, work):
    """Calls of work() per second."""
    start, count = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        work()
        count += 1
    return count / (time.monotonic() - start)


def ask(sock, method, path, body=""):
    """One request over a kept connection; the answer's body."""
    head = f"{method} {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall((head + body).encode())
    got = b""
    while b"\r\n\r\n" not in got:
        got += received(sock)
    head, _, text = got.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: *(\d+)", head, re.I).group(1))
    while len(text) < length:
        text += received(sock)
    return text


def received(sock):
    return sock.recv(65536) or sys.exit("the service closed the connection")


def served(port, clients, seconds):
    """Runs per second that the service answers to so many clients together."""
    rates = []

    def client():
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def run():
                answer = json.loads(ask(sock, "POST", "/run_code", BODY))
                assert answer["run_result"]["stdout"] == "4950\n", answer

            rates.append(rate(seconds, run))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(rates) == clients, "a client failed"
    return sum(rates)


def bare(seconds):
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program:
        program.write(CODE)
        program.flush()

        def run():
            done = subprocess.run(["python3", "-I", "-S", program.name], input=STDIN, capture_output=True, text=True)
            assert done.stdout == "4950\n", done

        return rate(seconds, run)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    repetitions, seconds = int((sys.argv[2:] or [3])[0]), float((sys.argv[3:] or [4])[0])
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    port = free_port()
    service = subprocess.Popen([sys.argv[1], "sandbox", "serve", "--no-token", "--port", str(port), "--slots", "1"])
    try:
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", port)) as sock:
                    print("service:", ask(sock, "GET", "/health").decode(), flush=True)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        served(port, 1, 0.5)
        for _ in range(repetitions):
            plain = bare(seconds)
            found = {n: served(port, n, seconds) for n in (1, 8)}
            words = [f"{n} clients {r:.0f}/s = {r / plain:.2f} x" for n, r in found.items()]
            print(f"bare {plain:.0f}/s; " + "; ".join(words), flush=True)
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    main()
