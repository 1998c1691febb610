"""Attacks on an SSH server, one of each kind that has worked against somebody. Each prints one line: its name, and what
the server let happen. Usage: attack.py PORT USER PUSHER_KEY OTHER_KEY"""

import os
import socket
import struct
import sys
import time

import paramiko
from paramiko.message import Message

PORT, USER = int(sys.argv[1]), sys.argv[2]
PUSHER, OTHER = (paramiko.Ed25519Key.from_private_key_file(path) for path in sys.argv[3:5])
# USERAUTH_SUCCESS, REQUEST_SUCCESS, OPEN_CONFIRMATION, DATA, CHANNEL_SUCCESS: what no stranger may ever hear.
GAINS = {52: "success", 81: "request-success", 91: "open", 94: "data", 99: "channel-success"}
PATIENCE = 3


def connect():
    return socket.create_connection(("127.0.0.1", PORT), timeout=20)


def raw(name, payload, banner=True):
    """Bytes before the key exchange: whatever comes back is no more than a banner, a KEXINIT and the end."""
    sock = connect()
    sock.settimeout(20)
    try:
        sock.sendall((b"SSH-2.0-attack\r\n" if banner else b"") + payload)
        sock.shutdown(socket.SHUT_WR)
        heard = 0
        while True:
            data = sock.recv(65536)
            if not data:
                break
            heard += len(data)
        said = "ended" if heard < 8192 else f"said {heard} bytes"
    except (ConnectionError, OSError) as error:
        said = "still open" if isinstance(error, socket.timeout) else "ended"
    sock.close()
    print(f"{name}: {said}", flush=True)


class Peer:
    """A connection after the key exchange; `heard` is every message that came since."""

    def __init__(self, key=None):
        self.heard = []
        self.transport = paramiko.Transport(connect())
        self.transport.start_client(timeout=20)
        if key:
            self.transport.auth_publickey(USER, key)
        read = self.transport.packetizer.read_message

        def recorded():
            kind, message = read()
            self.heard.append(kind)
            return kind, message

        self.transport.packetizer.read_message = recorded

    def send(self, *parts):
        message = Message()
        for part in parts:
            if isinstance(part, bool):
                message.add_boolean(part)
            elif isinstance(part, int):
                message.add_byte(bytes([part]))
            elif isinstance(part, tuple):
                message.add_int(part[0])
            else:
                message.add_string(part)
        self.transport._send_message(message)

    def verdict(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.transport.is_active() and not self.heard:
            time.sleep(0.005)
        time.sleep(0.05)
        gained = [GAINS[kind] for kind in self.heard if kind in GAINS]
        self.transport.close()
        return "gained " + ",".join(gained) if gained else "nothing"


def stranger(name, act):
    peer = Peer()
    try:
        act(peer)
    except (EOFError, OSError, paramiko.SSHException):
        pass
    print(f"{name}: {peer.verdict()}", flush=True)


def service(peer):
    peer.send(5, b"ssh-userauth")


def auth(peer, user, service_name, method, *rest):
    service(peer)
    peer.send(50, user, service_name, method, *rest)


def session(peer):
    peer.send(90, b"session", (0,), (65536,), (32768,))


def signed(peer, user, key, named=None, wrong=False):
    """A publickey request; `named` is the key that it claims to be, `wrong` breaks the signature."""
    blob = (named or key).asbytes()
    data = Message()
    data.add_string(os.urandom(32) if wrong else peer.transport.session_id)
    data.add_byte(bytes([50]))
    for part in (user, b"ssh-connection", b"publickey"):
        data.add_string(part)
    data.add_boolean(True)
    data.add_string(b"ssh-ed25519")
    data.add_string(blob)
    signature = key.sign_ssh_data(data.asbytes()).asbytes()
    auth(peer, user, b"ssh-connection", b"publickey", True, b"ssh-ed25519", blob, signature)


def packet(length, body=b"\x00" * 64):
    return struct.pack(">I", length) + body


def before_the_key_exchange():
    raw("garbage instead of a banner", os.urandom(65536), banner=False)
    raw("a banner without an end", b"SSH-2.0-" + b"x" * 1_000_000, banner=False)
    raw("ten thousand lines before the banner", b"hello\r\n" * 10_000, banner=False)
    raw("a banner and nothing more", b"")
    raw("version 1", b"SSH-1.5-old\r\n", banner=False)
    raw("a packet of 4 GiB", packet(0xFFFFFFFF))
    raw("a packet of 2 GiB", packet(0x7FFFFFFF))
    raw("packets of nothing", packet(0, b"\x00" * 4096))
    raw("padding longer than its packet", packet(12, b"\xff" + b"\x00" * 64))
    raw("a KEXINIT cut short", packet(20, b"\x04\x14" + b"\x00" * 10))
    names = struct.pack(">I", 200_000) + b"a," * 100_000
    raw("a KEXINIT of long lists", packet(200_030, b"\x04\x14" + os.urandom(16) + names + b"\x00" * 64))
    raw("a list longer than its packet", packet(60, b"\x04\x14" + os.urandom(16) + b"\xff" * 64))
    raw("a key exchange without KEXINIT", packet(44, b"\x06\x1e" + struct.pack(">I", 32) + os.urandom(38)))
    raw("NEWKEYS at once", packet(12, b"\x0a\x15" + b"\x00" * 10))
    raw("USERAUTH_SUCCESS in the clear", packet(12, b"\x0a\x34" + b"\x00" * 10))


def before_the_login():
    user = USER.encode()
    stranger("channel without a login", session)
    stranger("exec without a login", lambda p: p.send(98, (0,), b"exec", True, b"id"))
    stranger("sftp without a login", lambda p: (p.send(98, (0,), b"subsystem", True, b"sftp"), p.send(94, (0,), packet(5))))
    stranger("USERAUTH_SUCCESS from the client", lambda p: (p.send(52), session(p)))
    stranger("login, then USERAUTH_SUCCESS from the client", lambda p: (service(p), p.send(52), session(p)))
    stranger("the connection service without a login", lambda p: (p.send(5, b"ssh-connection"), session(p)))
    stranger("login for a service that is none", lambda p: (auth(p, user, b"ssh-evil", b"none"), session(p)))
    stranger("login without the service", lambda p: (p.send(50, user, b"ssh-connection", b"none"), session(p)))
    for method in (b"none", b"hostbased", b"gssapi-with-mic", b"", b"x" * 1000):
        stranger(f"method {method[:16].decode()!r}", lambda p, m=method: (auth(p, user, b"ssh-connection", m), session(p)))
    stranger("password", lambda p: (auth(p, user, b"ssh-connection", b"password", False, b"x" * 100_000), session(p)))
    stranger("keyboard-interactive", lambda p: auth(p, user, b"ssh-connection", b"keyboard-interactive", b"", b""))
    stranger("answers nobody asked for", lambda p: (service(p), p.send(61, (1,), b"x"), session(p)))
    stranger("an unknown key", lambda p: signed(p, user, OTHER))
    stranger("the pusher's key, signed by another", lambda p: signed(p, user, OTHER, named=PUSHER))
    stranger("the pusher's signature of another session", lambda p: signed(p, user, PUSHER, wrong=True))
    stranger("the pusher's key under another name", lambda p: signed(p, b"root", PUSHER))
    stranger("the pusher's key without a signature", lambda p: (
        auth(p, user, b"ssh-connection", b"publickey", True, b"ssh-ed25519", PUSHER.asbytes(), b""), session(p)))
    stranger("a key that is none", lambda p: auth(
        p, user, b"ssh-connection", b"publickey", True, b"ssh-ed25519", b"\xff" * 200, b"\xff" * 200))
    stranger("a kind that is not the key's", lambda p: auth(
        p, user, b"ssh-connection", b"publickey", True, b"ssh-rsa", PUSHER.asbytes(), b"\x00" * 80))
    stranger("a key query, then a channel", lambda p: (
        auth(p, user, b"ssh-connection", b"publickey", False, b"ssh-ed25519", PUSHER.asbytes()), session(p)))
    stranger("a name of 200,000 bytes", lambda p: auth(p, b"A" * 200_000, b"ssh-connection", b"none"))
    stranger("a name of 1 MiB", lambda p: auth(p, b"A" * (1 << 20), b"ssh-connection", b"none"))
    stranger("a name that is no text", lambda p: auth(p, b"\xff\xfe\x00\r\nINFO: root\x1b[2J", b"ssh-connection", b"none"))
    stranger("many global requests", lambda p: [p.send(80, b"tcpip-forward", True, b"", (0,)) for _ in range(2000)])
    stranger("many ignored messages", lambda p: [p.send(2, b"x" * 1000) for _ in range(2000)])
    stranger("many unknown messages", lambda p: [p.send(200, b"x") for _ in range(500)])
    stranger("a key exchange again and again", lambda p: [p.send(20, b"x" * 300) for _ in range(50)])
    stranger("a long farewell", lambda p: p.send(1, (2,), b"x" * 200_000, b""))


def pusher(name, act):
    """What only sftp's pusher may do is all that he may do."""
    peer = Peer(PUSHER)
    try:
        said = act(peer) or peer.verdict()
    except (EOFError, OSError, paramiko.SSHException) as error:
        said = "nothing" if not isinstance(error, socket.timeout) else "still open"
    peer.transport.close()
    print(f"{name}: {said}", flush=True)


def request(peer, kind, *rest):
    channel = peer.transport.open_session(timeout=20)
    peer.heard.clear()
    peer.send(98, (channel.remote_chanid,), kind, True, *rest)


def second(peer):
    peer.transport.open_session(timeout=20)
    peer.heard.clear()
    session(peer)


def sftp(peer, payload):
    """What the subsystem answers to these bytes: its end, or how much it says."""
    channel = peer.transport.open_session(timeout=20)
    channel.settimeout(20)
    channel.invoke_subsystem("sftp")
    try:
        channel.sendall(payload)
        heard = b""
        while data := channel.recv(65536):
            heard += data
    except (OSError, paramiko.SSHException):
        pass
    return "nothing" if len(heard) < 200 else f"said {len(heard)} bytes"


def with_a_login():
    init = struct.pack(">IBI", 5, 1, 3)
    pusher("exec", lambda p: request(p, b"exec", b"id"))
    pusher("shell", lambda p: request(p, b"shell"))
    pusher("pty", lambda p: request(p, b"pty-req", b"xterm", (80,), (24,), (0,), (0,), b""))
    pusher("env", lambda p: request(p, b"env", b"LD_PRELOAD", b"/tmp/x.so"))
    pusher("x11", lambda p: request(p, b"x11-req", False, b"x", b"y", (0,)))
    pusher("agent", lambda p: request(p, b"auth-agent-req@openssh.com"))
    pusher("another subsystem", lambda p: request(p, b"subsystem", b"shell"))
    pusher("a request nobody knows", lambda p: request(p, b"x" * 100_000))
    pusher("a second channel", second)
    pusher("direct-tcpip", lambda p: p.send(90, b"direct-tcpip", (9,), (65536,), (32768,), b"127.0.0.1", (22,), b"x", (1,)))
    pusher("direct-streamlocal", lambda p: p.send(
        90, b"direct-streamlocal@openssh.com", (9,), (65536,), (32768,), b"/var/run/docker.sock", b"", (0,)))
    pusher("tcpip-forward", lambda p: p.send(80, b"tcpip-forward", True, b"", (0,)))
    pusher("streamlocal-forward", lambda p: p.send(80, b"streamlocal-forward@openssh.com", True, b"/tmp/x"))
    pusher("data for a channel that is none", lambda p: p.send(94, (4711,), b"x" * 1000))
    pusher("sftp before INIT", lambda p: sftp(p, packet(9, b"\x0b" + b"\x00" * 8)))
    pusher("sftp INIT twice", lambda p: sftp(p, init + init))
    pusher("an sftp packet of 4 GiB", lambda p: sftp(p, init + packet(0xFFFFFFFF)))
    pusher("sftp packets of nothing", lambda p: sftp(p, init + b"\x00" * 4096))
    pusher("an sftp name longer than its packet", lambda p: sftp(
        p, init + packet(13, b"\x0b" + b"\x00" * 4 + b"\xff" * 8) + packet(0)))


before_the_key_exchange()
before_the_login()
with_a_login()
