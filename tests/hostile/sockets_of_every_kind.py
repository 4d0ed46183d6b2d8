# expect: OK
# needs: tcp abstract
# stdout: "CONTAINED\n"
# why: no family of sockets but pairs
import socket
bad = []
for family in range(0, 46):
    for kind in (1, 2, 3, 5):
        try:
            socket.socket(family, kind).close()
            bad.append((family, kind))
        except OSError:
            pass
try:
    a, b = socket.socketpair()
    a.sendall(b"x")
    assert b.recv(1) == b"x"
except OSError:
    bad.append("no pair")
print("ESCAPED %s" % bad if bad else "CONTAINED")
