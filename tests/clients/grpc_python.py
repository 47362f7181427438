"""grpcio over TCP, over a Unix socket and over an address list: Set, Get, and the error without a valid authority.

Usage: grpc_python.py PROTO_FOLDER HOST PORT SOCKET
"""

import asyncio
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

protos, host, port, socket = sys.argv[1:5]
generated = tempfile.mkdtemp()
files = [str(path) for path in pathlib.Path(protos).rglob("*.proto")]
assert protoc.main(["protoc", f"-I{protos}", f"--python_out={generated}", f"--grpc_python_out={generated}", *files]) == 0
sys.path.insert(0, generated)
from terrace.v1 import cache_pb2, cache_pb2_grpc  # noqa: E402

AUTHORITY = [("grpc.default_authority", "localhost")]


async def check(target, options):
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        cache = cache_pb2_grpc.CacheStub(channel)
        await cache.Set(cache_pb2.SetRequest(key=b"clients:grpcio", value=b"v"), timeout=10)
        many = [cache.Get(cache_pb2.GetRequest(key=b"clients:grpcio"), timeout=10) for _ in range(500)]
        assert all(response.found.value == b"v" for response in await asyncio.gather(*many))


async def main():
    await check(f"{host}:{port}", [])
    await check(f"unix:{socket}", AUTHORITY)
    await check(f"ipv4:{host}:{port},{host}:{port}", AUTHORITY)
    try:
        await check(f"unix:{socket}", [])
        raise AssertionError("a call without a valid authority succeeded")
    except grpc.aio.AioRpcError as error:
        assert error.code() == grpc.StatusCode.INTERNAL, error


asyncio.run(main())
print(f"grpcio {grpc.__version__}: ok")
