#!/usr/bin/env bash
# symmetric_run_slurm.sh "RAY START OPTIONS" COMMAND...: `ray symmetric-run` on every host, as its documentation says.
read -ra options <<<"$1"
shift
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none \
    ray symmetric-run --address "$(hostname --ip-address):6379" --min-nodes "$SLURM_JOB_NUM_NODES" "${options[@]}" -- "$@"
