"""Pushers that log in, ask for much and read none of it. Usage: deaf.py PORT USER KEY HOW COUNT; HOW is `answers` (requests
whose answers are not read), `few` (fewer of them, with files open), or `channel` (data for a channel without a
subsystem). Says `ready` when all are there, and leaves without a word when its input ends."""

import os
import struct
import sys

import paramiko

PORT, USER, KEY, HOW, COUNT = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])


def packet(kind, body):
    return struct.pack(">IB", len(body) + 1, kind) + body


def text(value):
    return struct.pack(">I", len(value)) + value


def say(channel, data):
    # When the other end reads no more, what is left is not sent either.
    channel.settimeout(1)
    try:
        channel.sendall(data)
    except OSError:
        pass


held = []
for number in range(COUNT):
    transport = paramiko.Transport(("127.0.0.1", PORT))
    transport.start_client(timeout=20)
    transport.auth_publickey(USER, paramiko.Ed25519Key.from_private_key_file(KEY))
    channel = transport.open_session(window_size=32768, max_packet_size=32768, timeout=20)
    held.append((transport, channel))
    if HOW == "channel":
        say(channel, b"x" * 4_000_000)
        continue
    channel.invoke_subsystem("sftp")
    say(channel, packet(1, struct.pack(">I", 3)))
    many = 14 if HOW == "few" else 250
    if HOW == "few":
        say(channel, packet(14, struct.pack(">I", 1) + text(b"deaf.example") + struct.pack(">I", 0)))
        for name in (b"cert", b"chain", b"fullchain", b"privkey"):
            path = b"deaf.example/" + name + b".pem"
            say(channel, packet(3, struct.pack(">I", 2) + text(path) + struct.pack(">II", 0x1A, 0)))
    path = text(b"/" + b"./" * 2000)
    say(channel, b"".join(packet(16, struct.pack(">I", 3 + n) + path) for n in range(many)))
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
