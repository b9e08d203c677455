#!/bin/sh
# The default load while ten processes take over from one another. Exit code 0 only if all
# ten did, every packet was answered rightly, no agent reconnected, and every report is in
# the store.
# Usage: examples/restart.sh path/to/hawk
set -eu

hawk=$(realpath "${1:-target/release/hawk}")
work=$(mktemp -d)
export HAWK_CONTROL="$work/control"
server=
load=

cleanup() {
    for process in $server $load; do
        kill -KILL "$process" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

fail() {
    echo "restart-demo: $1; the log:" >&2
    cat "$work/log" >&2
    exit 1
}

# The server's only line on stdout is its address; its successors print none.
mkfifo "$work/ready"
"$hawk" serve --listen 127.0.0.1:0 --store "$work/hawk.db" >"$work/ready" 2>"$work/log" &
server=$!
read -r _ _ address <"$work/ready" || fail "the server did not start"

"$hawk" load "$address" >"$work/load" 2>/dev/null &
load=$!

# The load lasts ten seconds, the upgrades some nine.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.9
    "$hawk" upgrade >"$work/upgraded" || fail "no other process took over"
    cat "$work/upgraded"
    server=$(sed -n 's/.* pid=\([0-9]*\) .*/\1/p' "$work/upgraded")
done

outcome=0
wait "$load" || outcome=$?
load=
echo
cat "$work/load"
"$hawk" stats >"$work/stats"
accepted=$(sed -n 's/.* accepted=\([0-9]*\) .*/\1/p' "$work/stats")
taken=$(sed -n 's/.* reports=\([0-9]*\) busy=.*/\1/p' "$work/stats")
kept=$("$hawk" reports --json --store "$work/hawk.db" 2>/dev/null | wc -l)

# Seven connections, as many as the load has.
echo "connects    $accepted by 7 agents"
echo "stored      $kept reports, of $taken acknowledged"
[ "$accepted" -eq 7 ] && [ "$kept" -eq "$taken" ] || outcome=1
[ "$outcome" -eq 0 ] || fail "the load noticed"
echo
echo "restart-demo: ten processes took over, and no agent noticed"
