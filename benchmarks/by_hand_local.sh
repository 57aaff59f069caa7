#!/usr/bin/env bash
# by_hand_local.sh DIRECTORY NODES ADDRESS PORT "RAY START OPTIONS" COMMAND...: several Ray nodes on one host, typed at once,
# each with a temporary directory of its own and no fixed port; at the end each gets SIGTERM, as by Ctrl-C.
directory=$1 nodes=$2 address=$3 port=$4
read -ra options <<<"$5"
shift 5

base=$(mktemp -d /tmp/bh.XXXXXX)
trap 'rm -rf "$base"' EXIT
options+=(--node-ip-address="$address" --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 --block)

ray start --head --port="$port" --temp-dir="$base/0" "${options[@]}" >"$directory/head.log" 2>&1 &
for ((i = 1; i < nodes; i++)); do
    ray start --address="$address:$port" --temp-dir="$base/$i" "${options[@]}" &
done

until grep -q 'Ray runtime started' "$directory/head.log"; do sleep 0.02; done
RAY_ADDRESS=$address:$port "$@"
code=$?
mapfile -t started < <(jobs -p)
kill -TERM "${started[@]}"
wait
exit "$code"
