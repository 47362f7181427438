#!/bin/sh
# Runs current client libraries with their default settings against a running Terrace:
#     tests/clients/run.sh HOST RESP_PORT GRPC_PORT GRPC_SOCKET [SECURED_RESP_PORT SECURED_GRPC_PORT CA_FILE USER TOKEN]
# The last five arguments are of a server with TLS and a user that may read and write keys with the prefix app:.
# Installs redis-py, valkey-py, grpcio, node-redis, ioredis and grpc-js from their registries into a temporary directory. Requires
# python3 with venv, node and npm. The default test run skips this script; `TERRACE_TEST_CLIENTS=1 cargo test --test it
# clients` starts a server and runs it.
set -eu
# Limits the whole run to 600 seconds, so that a client that hangs does not block the caller.
if [ "${TERRACE_CLIENTS_LIMITED:-}" != 1 ]; then
    TERRACE_CLIENTS_LIMITED=1 exec timeout 600 "$0" "$@"
fi
host=$1 port=$2 grpc_port=$3 grpc_socket=$4
shift 4
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/python"
"$work/python/bin/pip" install --quiet --disable-pip-version-check redis valkey grpcio grpcio-tools
for library in redis valkey; do
    "$work/python/bin/python" "$here/python_client.py" "$library" "$host" "$port"
done

"$work/python/bin/python" "$here/grpc_python.py" "$here/../../proto" "$host" "$grpc_port" "$grpc_socket"

[ "$#" -eq 0 ] || "$work/python/bin/python" "$here/secured_python.py" "$here/../../proto" localhost "$@"

cp "$here"/*.mjs "$work/"
(cd "$work" && npm install --silent --no-audit --no-fund --prefix "$work" redis ioredis @grpc/grpc-js @grpc/proto-loader >/dev/null)
for library in redis ioredis; do
    (cd "$work" && node node_client.mjs "$library" "$host" "$port")
done
(cd "$work" && node grpc_node.mjs "$here/../../proto" "$host" "$grpc_port")
[ "$#" -eq 0 ] || (cd "$work" && node secured_node.mjs "$here/../../proto" localhost "$@")
