"""Hosts and the switch between them, as a process: network namespaces joined by a program that can lose packets.

Each host has a TUN device as `eth0` at 10.77.0.<number>. The switch reads every packet and delivers, delays or drops
it, each direction of each pair by its own rule: what tc's netem does, without needing that module in the kernel, with a
fixed seed, and with cuts in one direction only. A cut is silent: no reset is sent, as when a cable is pulled.

  switch.py HOSTS   prints the paths of the namespaces as JSON, then obeys rules from stdin and ends with it:
                    {"from": 2, "to": 3, "loss": 0.01, "delay_ms": 20}

The namespaces have no names and end with their last process, so that nothing is left behind whatever happens.
"""
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
IFF_UP, IFF_RUNNING = 0x1, 0x40
MTU = 9000
LIBC = ctypes.CDLL(None, use_errno=True)


def address(host):
    return f"10.77.0.{host}"


def check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def configure(name, ip=None, mtu=None):
    """What `ip addr add` and `ip link set up` do, in the namespace of this thread."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        label = name.encode().ljust(16, b"\0")

        def inet(text):
            return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))

        if ip:
            fcntl.ioctl(s, SIOCSIFADDR, label + inet(ip))
            fcntl.ioctl(s, SIOCSIFNETMASK, label + inet("255.255.255.0"))
        if mtu:
            fcntl.ioctl(s, SIOCSIFMTU, label + struct.pack("i12x", mtu))
        fcntl.ioctl(s, SIOCSIFFLAGS, label + struct.pack("h14x", IFF_UP | IFF_RUNNING))


def open_host(host):
    """(namespace, device): descriptors of a fresh namespace and of the TUN device in it. Moves this thread there."""
    check(LIBC.unshare(CLONE_NEWNET))
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TUN | IFF_NO_PI))
    configure("lo")
    configure("eth0", address(host), MTU)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY), device


class Switch:
    """Carries packets between hosts. Rules come as JSON lines: {"from": 2, "to": 3, "loss": 0.01, "delay_ms": 20}."""

    def __init__(self, hosts):
        self.namespaces, self.devices = {}, {}
        for host in range(1, hosts + 1):
            self.namespaces[host], self.devices[host] = open_host(host)
        self.rules, self.random = {}, random.Random(1)
        self.waiting, self.order = [], 0  # heap of (time, order, host, packet)

    def run(self, commands):
        ready = select.poll()
        by_descriptor = {device: host for host, device in self.devices.items()}
        for descriptor in [*by_descriptor, commands.fileno()]:
            ready.register(descriptor, select.POLLIN)
        while True:
            timeout_ms = max(0, (self.waiting[0][0] - time.monotonic()) * 1000) if self.waiting else None
            for descriptor, _ in ready.poll(timeout_ms):
                if descriptor != commands.fileno():
                    self.forward_all(by_descriptor[descriptor])
                elif not self.obey(commands.readline()):
                    return
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                self.deliver(*heapq.heappop(self.waiting)[2:])

    def obey(self, line):
        if not line:
            return False
        rule = json.loads(line)
        self.rules[rule["from"], rule["to"]] = (rule["loss"], rule["delay_ms"] / 1000)
        print("ok", flush=True)
        return True

    def forward_all(self, source):
        while True:
            try:
                packet = os.read(self.devices[source], MTU + 64)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4 or packet[16:19] != b"\x0a\x4d\x00":
                continue
            loss, delay_s = self.rules.get((source, packet[19]), (0, 0))
            if self.random.random() < loss:
                continue
            if delay_s:
                self.order += 1
                heapq.heappush(self.waiting, (time.monotonic() + delay_s, self.order, packet[19], packet))
            else:
                self.deliver(packet[19], packet)

    def deliver(self, host, packet):
        try:
            os.write(self.devices[host], packet)
        except (BlockingIOError, KeyError):
            pass  # a full queue or nobody's address: dropped, as anywhere


def main():
    switch = Switch(int(sys.argv[1]))
    print(json.dumps({host: f"/proc/{os.getpid()}/fd/{fd}" for host, fd in switch.namespaces.items()}), flush=True)
    switch.run(sys.stdin)


if __name__ == "__main__":
    main()
