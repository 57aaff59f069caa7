#!/usr/bin/env bash
# symmetric_run_local.sh PORT "RAY START OPTIONS" COMMAND...: `ray symmetric-run` on this host alone, in a namespace of
# process ids: it refuses to start where anybody's Ray runs, and its `ray stop` would end that Ray.
port=$1
read -ra options <<<"$2"
shift 2

base=$(mktemp -d /tmp/sr.XXXXXX)
trap 'rm -rf "$base"' EXIT
apart=(unshare --pid --fork --kill-child --mount-proc)
[ "$(id -u)" -eq 0 ] || apart+=(--map-root-user)
# A shell as the first process of the namespace reaps what Ray leaves behind, else its `ray stop` waits for zombies.
# shellcheck disable=SC2016  # expanded by that shell
"${apart[@]}" bash -c '"$@"; exit' - ray symmetric-run --address "127.0.0.1:$port" "${options[@]}" --temp-dir="$base" -- \
    env RAY_ADDRESS="127.0.0.1:$port" "$@"
