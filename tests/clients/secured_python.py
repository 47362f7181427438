"""redis-py, valkey-py and grpcio with TLS, a user and a token.

Usage: secured_python.py PROTO_FOLDER HOST RESP_PORT GRPC_PORT CA_FILE USER TOKEN
The user may read and write keys that start with the prefix `app:`.
"""

import importlib
import pathlib
import sys
import tempfile

import grpc
from grpc_tools import protoc

protos, host, port, grpc_port, authority, user, token = sys.argv[1:8]

for name in ["redis", "valkey"]:
    library = importlib.import_module(name)
    client_class = getattr(library, "Redis", None) or library.Valkey
    # redis-py accepts a pooled connection only if the server answers as Redis does.
    client = client_class(host=host, port=int(port), username=user, password=token, ssl=True, ssl_ca_certs=authority)
    assert client.set("app:1", "v") and client.get("app:1") == b"v"
    assert client.acl_whoami() in (user, user.encode())
    for denied in (lambda: client.get("other:1"), lambda: client.flushall(), lambda: client.publish("other", "m")):
        try:
            denied()
            raise AssertionError("a command without the permission succeeded")
        except library.exceptions.NoPermissionError:
            pass
    try:
        client_class(host=host, port=int(port), username=user, password="wrong", ssl=True, ssl_ca_certs=authority).ping()
        raise AssertionError("a wrong token was accepted")
    except library.exceptions.AuthenticationError:
        pass
    print(f"{name} with TLS and a token: ok")

generated = tempfile.mkdtemp()
files = [str(path) for path in pathlib.Path(protos).rglob("*.proto")]
assert protoc.main(["protoc", f"-I{protos}", f"--python_out={generated}", f"--grpc_python_out={generated}", *files]) == 0
sys.path.insert(0, generated)
from terrace.v1 import cache_pb2, cache_pb2_grpc  # noqa: E402

transport = grpc.ssl_channel_credentials(pathlib.Path(authority).read_bytes())


def get(credentials, key):
    with grpc.secure_channel(f"{host}:{grpc_port}", credentials) as channel:
        return cache_pb2_grpc.CacheStub(channel).Get(cache_pb2.GetRequest(key=key), timeout=10)


def code(credentials, key):
    try:
        get(credentials, key)
        return grpc.StatusCode.OK
    except grpc.RpcError as error:
        return error.code()


with_token = grpc.composite_channel_credentials(transport, grpc.access_token_call_credentials(token))
with_wrong = grpc.composite_channel_credentials(transport, grpc.access_token_call_credentials("wrong"))
assert get(with_token, b"app:1").found.value == b"v"
assert code(with_token, b"other:1") == grpc.StatusCode.PERMISSION_DENIED
assert code(with_wrong, b"app:1") == grpc.StatusCode.UNAUTHENTICATED
assert code(transport, b"app:1") == grpc.StatusCode.UNAUTHENTICATED
print("grpcio with TLS and a token: ok")
