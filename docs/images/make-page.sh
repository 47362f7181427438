#!/bin/sh
# Makes docs/images/page.png: the page of a server under generated traffic, taken by headless Chromium.
# Usage: docs/images/make-page.sh [PATH OF terrace]   (default: target/release/terrace). Needs chromium and awk; takes 2 minutes.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
terrace=${1:-$here/../../target/release/terrace}
work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

# Sessions of a shop: profile and cart of a user, then a product with its reviews. Users and products follow a skewed distribution.
awk 'BEGIN { srand(7)
    for (second = 0; second < 75; second++) for (n = 0; n < 220; n++) {
        user = int(4000 * rand() ^ 3); product = int(9000 * rand() ^ 3); caller = n % 20
        printf "%d,user:%d:profile,700,,%d\n%d,user:%d:cart,300,,%d\n", second, user, caller, second, user, caller
        printf "%d,product:%d,1500,,%d\n%d,reviews:%d,4000,,%d\n", second, product, caller, second, product, caller
    } }' >"$work/trace.csv"

"$terrace" serve --l2 "embedded:$work/data" --data-dir "$work/data" --l1-size 8MiB --l2-read-timeout 5s --l2-write-timeout 5s --grpc 127.0.0.1:0 --resp 127.0.0.1:0 \
    --http 127.0.0.1:0 >"$work/out" 2>"$work/log" &
server=$!
until grep -q '^ready' "$work/out"; do sleep 0.1; done
grpc=$(sed -n 's/^grpc //p' "$work/out")
http=$(sed -n 's/^http //p' "$work/out")
"$terrace" replay "$work/trace.csv" --server "$grpc" --speed 1 --connections 20 >/dev/null
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking --disable-sync \
    --user-data-dir="$work/profile" --force-device-scale-factor=0.8 --window-size=1280,1285 --virtual-time-budget=8000 --screenshot="$here/page.png" "http://$http/" 2>/dev/null
ls -l "$here/page.png"
