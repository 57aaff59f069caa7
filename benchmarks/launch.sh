#!/usr/bin/env bash
# launch.sh DIRECTORY COMMAND...: a batch job that notes when it launches a contender, and becomes it.
date +%s.%N >"$1/.launched"
mv "$1/.launched" "$1/launched"
shift
exec "$@"
