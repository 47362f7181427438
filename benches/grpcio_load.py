"""Server CPU of a gRPC Get from real clients: grpcio aio with a deadline, credentials and a trace context on each call.

Usage: grpcio_load.py PROTO_FOLDER NAME=BINARY [NAME=BINARY ...]

Each BINARY is a `terrace` executable, for example of two commits. The script starts each one with `--l2 none`, reads an
L1 hit of 100 bytes over 10 channels with 100 calls each under way, in alternating rounds, and prints the CPU time of the
server per call (utime + stime of /proc/PID/stat) as the median of the rounds, and its ratio to the first binary. It
also counts the write system calls per call with strace, if strace is installed. `pip install grpcio grpcio-tools`
provides the modules.
"""

import asyncio
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile

import grpc
from grpc_tools import protoc

CHANNELS = 10
CALLS_UNDER_WAY = 100
CALLS = 10_000
ROUNDS = 7
METADATA = (
    ("authorization", "Bearer 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
)

generated = tempfile.mkdtemp()
files = [str(path) for path in pathlib.Path(sys.argv[1]).rglob("*.proto")]
assert protoc.main(["protoc", f"-I{sys.argv[1]}", f"--python_out={generated}", f"--grpc_python_out={generated}", *files]) == 0
sys.path.insert(0, generated)
from terrace.v1 import cache_pb2, cache_pb2_grpc  # noqa: E402


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, name, binary):
        self.name = name
        self.cpu_us = []
        self.port = free_port()
        addresses = [f"--grpc-addr=127.0.0.1:{self.port}", "--resp-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0"]
        self.process = subprocess.Popen(
            [binary, "serve", "--l2", "none", "--data-dir", tempfile.mkdtemp(), *addresses],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def connect(self):
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options) for _ in range(CHANNELS)]
        self.stubs = [cache_pb2_grpc.CacheStub(channel) for channel in channels]
        await asyncio.gather(*(asyncio.wait_for(channel.channel_ready(), 30) for channel in channels))
        await self.stubs[0].Set(cache_pb2.SetRequest(key=b"key:000000", value=b"v" * 100), timeout=10)

    async def load(self):
        request = cache_pb2.GetRequest(key=b"key:000000")

        async def worker(stub):
            for _ in range(CALLS // CHANNELS // CALLS_UNDER_WAY):
                reply = await stub.Get(request, timeout=10, metadata=METADATA)
                assert len(reply.found.value) == 100

        await asyncio.gather(*(worker(stub) for stub in self.stubs for _ in range(CALLS_UNDER_WAY)))

    async def round(self):
        before = self.cpu_seconds()
        await self.load()
        self.cpu_us.append((self.cpu_seconds() - before) / CALLS * 1e6)

    async def writes_per_call(self):
        if shutil.which("strace") is None:
            return None
        counts = tempfile.mktemp()
        command = ["strace", "-f", "-c", "-o", counts, "-e", "trace=write,writev,sendto,sendmsg", "-p", str(self.process.pid)]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        await asyncio.sleep(1)
        await self.load()
        tracer.send_signal(2)
        tracer.wait()
        rows = pathlib.Path(counts).read_text(encoding="ascii").splitlines()
        calls = (re.match(r"\s*\S+\s+\S+\s+\S+\s+(\d+)\s.*\b(?:write|writev|sendto|sendmsg)$", row) for row in rows)
        return sum(int(found.group(1)) for found in calls if found) / CALLS


async def main():
    servers = [Server(*argument.split("=", 1)) for argument in sys.argv[2:]]
    try:
        for server in servers:
            await server.connect()
            await server.load()
        for _ in range(ROUNDS):
            for server in servers:
                await server.round()
        yardstick = statistics.median(servers[0].cpu_us)
        for server in servers:
            median = statistics.median(server.cpu_us)
            writes = await server.writes_per_call()
            told = "" if writes is None else f", {writes:.3f} writes/call"
            spread = f"{min(server.cpu_us):.1f} to {max(server.cpu_us):.1f}"
            print(f"{server.name:12} {median:6.1f} us/call ({spread}), {median / yardstick:.2f} x{told}")
    finally:
        for server in servers:
            server.process.terminate()


asyncio.run(main())
