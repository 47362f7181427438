#!/bin/sh
# Server CPU of a gRPC Get and write system calls per call under h2load, which sends the headers and the message of a
# call together:
#     benches/h2load.sh BINARY [BINARY ...]
# Each BINARY is a `terrace` executable, for example of two commits. The script starts each one with `--l2 none` and reads
# an L1 hit of 100 bytes in alternating rounds. It prints the median CPU time of the server per call, in microseconds, and
# the ratio to the first binary. Requires h2load (Debian package nghttp2-client), redis-cli, and strace for the writes.
set -eu
rounds=${ROUNDS:-5}
work=$(mktemp -d)
trap 'kill $pids 2>/dev/null; rm -rf "$work"' EXIT
pids=
# A GetRequest of 12 bytes: field 1, 10 bytes.
printf '\000\000\000\000\014\012\012key:000000' >"$work/message"

number=0
for binary in "$@"; do
    number=$((number + 1))
    port=$((20000 + $$ % 20000 + 3 * number))
    "$binary" serve --l2 none --data-dir "$work/$number" --grpc-addr 127.0.0.1:$port \
        --resp-addr 127.0.0.1:$((port + 1)) --http-addr 127.0.0.1:$((port + 2)) >/dev/null 2>&1 &
    eval "pid_$number=$! port_$number=$port"
    pids="$pids $!"
    until redis-cli -p $((port + 1)) SET key:000000 "$(printf '%0100d' 0)" >/dev/null 2>&1; do sleep 0.1; done
done

load() { # port, connections, streams, calls
    h2load -c "$2" -m "$3" -n "$4" -d "$work/message" -H 'content-type: application/grpc' -H 'te: trailers' \
        "http://127.0.0.1:$1/terrace.v1.Cache/Get" >"$work/h2load" 2>&1
    grep -q " $4 succeeded" "$work/h2load" || { cat "$work/h2load"; exit 1; }
}

ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }

for shape in "10 100 300000" "10 10 200000" "8 1 60000" "100 1 60000" "1 1 20000"; do
    set -- $shape
    round=0
    while [ $round -lt "$rounds" ]; do
        round=$((round + 1))
        for server in $(seq $number); do
            eval "pid=\$pid_$server port=\$port_$server"
            before=$(ticks "$pid")
            load "$port" "$1" "$2" "$3"
            echo $(($(ticks "$pid") - before)) >>"$work/ticks-$server"
        done
    done
    for server in $(seq $number); do
        eval "pid=\$pid_$server port=\$port_$server"
        median=$(sort -n "$work/ticks-$server" | sed -n "$(((rounds + 1) / 2))p")
        rm "$work/ticks-$server"
        writes=-
        if command -v strace >/dev/null; then
            strace -f -c -o "$work/calls" -e trace=write,writev,sendto,sendmsg -p "$pid" 2>/dev/null &
            tracer=$!
            sleep 1
            load "$port" "$1" "$2" 20000
            kill -INT $tracer
            wait $tracer || true
            writes=$(awk '$NF ~ /^(write|writev|sendto|sendmsg)$/ { calls += $4 } END { printf "%.3f", calls / 20000 }' "$work/calls")
        fi
        [ "$server" != 1 ] || first=$median
        awk -v name="$1 x $2" -v server="$server" -v ticks="$median" -v calls="$3" -v hz="$(getconf CLK_TCK)" -v first="$first" \
            -v writes="$writes" 'BEGIN { printf "%-9s binary %d: %6.2f us/call, %.2f x, %s writes/call\n", name, server, ticks / hz / calls * 1e6, ticks / first, writes }'
    done
done
