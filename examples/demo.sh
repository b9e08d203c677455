#!/bin/sh
# The server on a free port, the default load against it, and the figures of both. Exit code 0 only if every packet was answered
# rightly and every report is in the store. Usage: examples/demo.sh path/to/hawk
set -eu

hawk=${1:-target/release/hawk}
work=$(mktemp -d)
server=

cleanup() {
    if [ -n "$server" ]; then
        kill -KILL "$server" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# The server's only line on stdout is its address; reading it from a pipe waits until
# the server is ready.
mkfifo "$work/ready"
"$hawk" serve --listen 127.0.0.1:0 --store "$work/hawk.db" >"$work/ready" 2>"$work/log" &
server=$!
if ! read -r _ _ address <"$work/ready"; then
    cat "$work/log" >&2
    exit 1
fi

started=$(cut -d ' ' -f 1 /proc/uptime)
outcome=0
"$hawk" load "$address" || outcome=$?
ended=$(cut -d ' ' -f 1 /proc/uptime)

ticks=$(awk '{ print $14 + $15 }' "/proc/$server/stat")
memory=$(awk '/^VmHWM/ { print $2 }' "/proc/$server/status")
awk -v ticks="$ticks" -v hertz="$(getconf CLK_TCK)" -v kib="$memory" \
    -v seconds="$(awk "BEGIN { print $ended - $started }")" 'BEGIN {
        printf "server      %.3f s of CPU, %.1f %% of a core, %.1f MiB at most\n",
            ticks / hertz, 100 * ticks / hertz / seconds, kib / 1024
    }'

kill -USR1 "$server"
kill -TERM "$server"
wait "$server" || outcome=$?
server=

echo
echo "The server's last statistics:"
grep ' served ' "$work/log" || true
# A signal's lines are the last of their kind.
grep ' pool class=' "$work/log" | tail -n 5 || true

echo
echo "The agents in its store:"
"$hawk" agents --store "$work/hawk.db" 2>/dev/null
kept=$("$hawk" reports --json --store "$work/hawk.db" 2>/dev/null | wc -l)
taken=$(sed -n 's/.* served .* reports=\([0-9]*\) .*/\1/p' "$work/log")
echo "$kept reports, of $taken acknowledged"
[ "$kept" -eq "$taken" ] || outcome=1

echo
if [ "$outcome" -eq 0 ]; then
    echo "demo: every packet was answered rightly, and every report is in the store"
else
    echo "demo: something went wrong; the server's log:" >&2
    cat "$work/log" >&2
fi
exit "$outcome"
