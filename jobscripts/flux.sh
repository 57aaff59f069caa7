#!/usr/bin/env bash
# Run a driver on a Ray cluster in a Flux allocation, as it stands or after an edit of the site's facts:
#
#   flux batch jobscripts/flux.sh                                      train the shipped example
#   flux batch --nodes=8 --time-limit=4h jobscripts/flux.sh train.py --lr 3e-4
#   rayhpc alloc submit flux -N 8 -t 240 -- train.py --lr 3e-4         the same, with a record
#
# Whole hosts are asked for. The exit code of the job is the driver's; docs/exit-codes.md lists rayhpc's own. docs/flux.md
# walks through this file.

#flux: --job-name=rayhpc
#flux: --nodes=4
#flux: --exclusive
#flux: --time-limit=1h
#flux: --output=rayhpc-{{id}}.out

fail() {
    echo "rayhpc: $1  [$(hostname)]" >&2
    echo "  next: $2" >&2
    exit 78
}

# The code of the site below, as `module load`, sees neither the driver's arguments nor -u; what fails ends the job.
given=("$@")
set --
trap 'fail "a line of the site has failed: $(sed -n "${LINENO}p" "$0")" "its message is above; correct the script"' ERR

# ---- the site's facts: edit these -----------------------------------------------------------------------------------
# module load python mpich                      # whatever your environment needs
# export RAYHPC_VENV=$HOME/venvs/ray            # unless `qsub -V` passes it
# export RAYHPC_INTERFACE='hsn*'                # the network, if the default is the wrong one
: "${RAYHPC_RANKS_PER_HOST:=1}"                 # Ray nodes on a host: a number, `gpu` or `numa` for one on each
: "${RAYHPC_REQUEUE:=yes}"                      # run again when the driver ends with 75
: "${RAYHPC_MAX_RESTARTS:=10}"
# rayhpc: settings
# ----------------------------------------------------------------------------------------------------------------------
trap - ERR
set -euo pipefail
set -- ${given[@]+"${given[@]}"}

# The driver and its arguments; `rayhpc alloc submit` writes them into the next line of a copy.
# rayhpc: command

# The code of an environment may use unset variables, and does not see the driver's arguments: a function has its own.
activate() {
    local hook
    set +u
    # shellcheck disable=SC1090,SC1091  # files of the user's
    if [ -f "$RAYHPC_VENV/bin/activate" ]; then
        . "$RAYHPC_VENV/bin/activate" || return
    else # of conda, or any directory with bin/python
        export PATH="$RAYHPC_VENV/bin:$PATH"
        if [ -d "$RAYHPC_VENV/conda-meta" ]; then
            export CONDA_PREFIX="$RAYHPC_VENV"
        fi
        for hook in "$RAYHPC_VENV"/etc/conda/activate.d/*.sh; do
            if [ -f "$hook" ]; then . "$hook"; fi
        done
    fi
    set -u
}

if [ ! -d "${TMPDIR:-/tmp}" ]; then
    echo "rayhpc: TMPDIR=$TMPDIR is not on this host: /tmp is used  [$(hostname)]" >&2
    export TMPDIR=/tmp
fi

if [ -n "${RAYHPC_VENV:-}" ]; then
    [ -x "$RAYHPC_VENV/bin/python" ] ||
        fail "there is no Python environment $RAYHPC_VENV" "correct RAYHPC_VENV: it needs bin/python, on every host"
    activate || fail "$RAYHPC_VENV cannot be activated: $( (activate) 2>&1 | tail -n 1)" "correct its bin/activate"
fi
python=$(command -v python || command -v python3) || fail "there is no python" "load a module, or set RAYHPC_VENV"
"$python" -c 'import rayhpc' 2>/dev/null ||
    fail "$python cannot import rayhpc" "activate its environment before flux batch, or set RAYHPC_VENV"
if [ -n "${RAYHPC_CONTAINER:-}" ]; then # the ranks run in an image: docs/containers.md
    # shellcheck disable=SC1091  # a file of the package
    . "$("$python" -c 'import rayhpc; print(rayhpc.__path__[0])')/containers/enter.sh"
    python=$(command -v python)
fi
library=$("$python" -c 'import mpi4py; mpi4py.rc.initialize = False
from mpi4py import MPI; print(MPI.Get_library_version().rstrip("\0").replace("\n", " "))' 2>&1) ||
    fail "$python cannot load MPI: ${library##*$'\n'}" "pip install 'rayhpc[mpich]', or load the site's MPI module"

# The job that `flux batch` has started is this instance: its id is the parent's, and FLUX_JOB_ID is not set here.
id=$(flux job id --to=dec "$(flux getattr jobid)") || fail "there is no Flux job" "submit this script: flux batch $0"
export RAYHPC_FLUX_JOB=$id RAYHPC_RESTARTS=${RAYHPC_RESTARTS:-0} RAYHPC_CHAIN=${RAYHPC_CHAIN:-$id}

if [ $# -eq 0 ]; then
    read -ra words <<<"${RAYHPC_DRIVER:--m rayhpc.examples.train_ppo --output ppo-$RAYHPC_CHAIN --resume}"
    set -- "${words[@]}"
fi

hosts=$(flux resource list -n -o '{nnodes}')
# Flux starts MPICH and Intel MPI by PMI itself; Open MPI needs its plugin: RAYHPC_LAUNCH='flux run -o pmi=pmix …'.
on_each_host() { # sets launch: RANKS for all of the hosts
    [ $# -eq 1 ] || uneven "$@"
    launch=(flux run --nodes="$hosts" --tasks-per-node="$1" --exclusive)
}
uneven() {
    fail "the hosts of the job differ, and this launcher starts equally many ranks on each" \
        "counted on each host: $*; set RAYHPC_RANKS_PER_HOST to a number"
}

# Ranks: one on each host with all its CPUs, or what RAYHPC_RANKS_PER_HOST says, counted on each host.
count_ranks() { # sets ranks: a number for each host
    local count rank
    case $RAYHPC_RANKS_PER_HOST in
        gpu) count="\"$python\" -m rayhpc.host.gpus" ;;
        numa) count="lscpu --parse=NODE | grep -v '^#' | sort -u | wc -l" ;;
        *)
            [[ $RAYHPC_RANKS_PER_HOST =~ ^[1-9][0-9]*$ ]] || fail "RAYHPC_RANKS_PER_HOST=$RAYHPC_RANKS_PER_HOST" \
                "say a number, gpu or numa"
            mapfile -t ranks < <(yes "$RAYHPC_RANKS_PER_HOST" | head -n "$hosts")
            return ;;
    esac
    on_each_host 1
    # The launchers' names for a rank's number. ALPS adds a line of its own.
    rank="\${OMPI_COMM_WORLD_RANK:-\${PMI_RANK:-\${PALS_RANKID:-\${ALPS_APP_PE:-\${JSM_NAMESPACE_RANK:-\${FLUX_TASK_RANK:-0}}}}}}"
    mapfile -t ranks < <("${launch[@]}" /bin/sh -c "echo \"$rank \$($count)\"" </dev/null |
        grep -xE '[0-9]+ +[0-9]+' | sort -n | awk '{ print $2 }')
    [ "${#ranks[@]}" -eq "$hosts" ] || fail "the ${RAYHPC_RANKS_PER_HOST}s of each host could not be counted" \
        "the launcher's message is above; or set RAYHPC_RANKS_PER_HOST to a number"
    [[ " ${ranks[*]} " != *" 0 "* ]] || fail "a host of the job has no ${RAYHPC_RANKS_PER_HOST}" \
        "counted on each host: ${ranks[*]}; set RAYHPC_RANKS_PER_HOST to a number"
}
count_ranks
if [ "$(printf '%s\n' "${ranks[@]}" | sort -u | wc -l)" -eq 1 ]; then
    on_each_host "${ranks[0]}"
else
    on_each_host "${ranks[@]}"
fi
# Another launcher may be named, with all its flags: RAYHPC_LAUNCH='mpiexec -n 8 -ppn 2'.
if [ -n "${RAYHPC_LAUNCH:-}" ]; then
    read -ra launch <<<"$RAYHPC_LAUNCH"
fi

echo "rayhpc: ${launch[*]} $python -m rayhpc.start $*" >&2

# flux cancel and the time limit end the instance: this script gets HUP with its process group, and seconds later all is
# killed. It must not end before the ranks, and ends the chain of attempts. flux run passes signals on since 0.73, and
# died of them before. So it is in a session of its own, where no HUP comes, and the instance signals the ranks.
job='' ended=no
pass_on() { # SIGNAL
    if [ -z "$job" ]; then
        return 0 # in a trap, a bare return has the status of what was interrupted
    elif [ "${launch[0]}" = flux ]; then
        # The jobs of this job's own instance, which are its ranks; it fails when they have ended.
        flux job killall -f -s "$1" >/dev/null 2>&1 || :
    else
        kill -s "$1" "$job" 2>/dev/null || :
    fi
}
stop() {
    ended=yes
    pass_on TERM
}
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2
trap stop HUP ALRM TERM
setsid "${launch[@]}" "$python" -m rayhpc.start "$@" &
# A signal that comes before the new process is the launcher is lost in it.
while cmp -s "/proc/$$/cmdline" "/proc/$!/cmdline"; do sleep 0.01; done
job=$!
[ "$ended" = no ] || stop
code=0
wait "$job" || code=$?
while kill -0 "$job" 2>/dev/null; do # a trap ends the wait, not the launcher
    code=0
    wait "$job" || code=$?
done

# The next attempt is a job of its own: all that was said of this one, the script included, with one more restart.
submit_again() {
    local next
    next=$(flux --parent job info "$id" jobspec | "$python" -c 'import json, os, sys
job = json.load(sys.stdin)
told = job["attributes"]["system"].setdefault("environment", {})
told["RAYHPC_CHAIN"] = os.environ["RAYHPC_CHAIN"]
told["RAYHPC_RESTARTS"] = str(int(os.environ["RAYHPC_RESTARTS"]) + 1)
json.dump(job, sys.stdout)' | flux --parent job submit) && flux job id --to=dec "$next"
}

if [ "$code" -eq 75 ] && [ "$RAYHPC_REQUEUE" = yes ]; then
    if [ "$ended" = yes ]; then
        echo "rayhpc: not submitted again: Flux itself is ending job $id, as after flux cancel" >&2
    elif [ "$RAYHPC_RESTARTS" -ge "$RAYHPC_MAX_RESTARTS" ]; then
        echo "rayhpc: not submitted again: $RAYHPC_RESTARTS restarts are all that RAYHPC_MAX_RESTARTS allows" >&2
    elif next=$(submit_again); then
        echo "rayhpc: the driver wants to be run again: the next attempt of job $id is job $next" >&2
    else
        echo "rayhpc: the driver wants to be run again, but no next attempt of job $id was submitted  [$(hostname)]" >&2
        echo "  next: submit it by hand; its message is above" >&2
    fi
fi
exit "$code"
