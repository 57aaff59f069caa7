#!/usr/bin/env bash
# Run a driver on a Ray cluster in a job of Grid Engine (Son of Grid Engine, Univa, Altair, Open Cluster Scheduler):
#
#   qsub jobscripts/sge.sh                                           train the shipped example
#   qsub -pe mpi 64 -l h_rt=14400 jobscripts/sge.sh train.py --lr 3e-4
#   rayhpc alloc submit sge -N 8 -t 240 -- train.py --lr 3e-4        the same, with a record
#
# Slots are asked for, and the parallel environment (`qconf -spl` lists them) decides on how many hosts they are: one
# with allocation_rule 1 gives so many hosts, and control_slaves TRUE lets ranks be started through Grid Engine. The
# slots of a host are the CPUs that Ray gets there. The exit code of the job is the driver's; docs/exit-codes.md lists
# rayhpc's own. docs/sge.md walks through this file.

#$ -N rayhpc
#$ -pe mpi 4
#$ -l h_rt=01:00:00
#$ -cwd
#$ -j y
#$ -S /bin/bash
#$ -notify

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
# export RAYHPC_VENV=$HOME/venvs/ray            # or qsub -v RAYHPC_VENV=…: a login shell makes a PATH of its own
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

# A job's PATH need not have Grid Engine's own commands, or has others of the same names before them.
if [ -x "${SGE_ROOT:-}/bin/${SGE_ARCH:-}/qrsh" ]; then
    export PATH="$SGE_ROOT/bin/$SGE_ARCH:$PATH"
fi
if [ -n "${RAYHPC_VENV:-}" ]; then
    [ -x "$RAYHPC_VENV/bin/python" ] ||
        fail "there is no Python environment $RAYHPC_VENV" "correct RAYHPC_VENV: it needs bin/python, on every host"
    activate || fail "$RAYHPC_VENV cannot be activated: $( (activate) 2>&1 | tail -n 1)" "correct its bin/activate"
fi
python=$(command -v python || command -v python3) || fail "there is no python" "load a module, or set RAYHPC_VENV"
"$python" -c 'import rayhpc' 2>/dev/null ||
    fail "$python cannot import rayhpc" "set RAYHPC_VENV in the script, or with qsub -v RAYHPC_VENV=…"
if [ -n "${RAYHPC_CONTAINER:-}" ]; then # the ranks run in an image: docs/containers.md
    # shellcheck disable=SC1091  # a file of the package
    . "$("$python" -c 'import rayhpc; print(rayhpc.__path__[0])')/containers/enter.sh"
    python=$(command -v python)
fi
library=$("$python" -c 'import mpi4py; mpi4py.rc.initialize = False
from mpi4py import MPI; print(MPI.Get_library_version().rstrip("\0").replace("\n", " "))' 2>&1) ||
    fail "$python cannot load MPI: ${library##*$'\n'}" "pip install 'rayhpc[mpich]', or load the site's MPI module"

if [ $# -eq 0 ]; then
    read -ra words <<<"${RAYHPC_DRIVER:--m rayhpc.examples.train_ppo --output ppo-${JOB_ID:-job} --resume}"
    set -- "${words[@]}"
fi

# The hosts, each once, this one first: PE_HOSTFILE has a line for each, `node1 4 main.q@node1 UNDEFINED`.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/rayhpc-job.XXXXXX")
# A remote shell to a host that is lost outlives mpiexec.
# shellcheck disable=SC2329  # the trap calls it
end_remote_shells() {
    local pid
    [ -f "$scratch/remote-shell.pids" ] || return 0
    while read -r pid; do # a process of that number that names our file is ours
        if grep -qsF "$scratch" "/proc/$pid/cmdline"; then kill -KILL "$pid" || :; fi
    done <"$scratch/remote-shell.pids"
}
trap 'end_remote_shells; rm -rf "$scratch"' EXIT
if [ -n "${PE_HOSTFILE:-}" ]; then
    awk '!seen[$1]++ { print $1 }' "$PE_HOSTFILE" >"$scratch/hosts"
else
    hostname >"$scratch/hosts"
fi
hosts=$(wc -l <"$scratch/hosts")

# mpiexec reaches the other hosts through Grid Engine: what that has not started, it cannot end. What -notify sends goes
# there too, and must not end mpiexec's part there. Open MPI passes only what it is told to the other hosts.
remote_shell() {
    # shellcheck disable=SC2016  # for the other shell
    command -v qrsh >/dev/null && echo 'qrsh -inherit -nostdin "$host" "trap \"\" USR1 USR2; $*"'
}
through_mpiexec() { # sets launch: RANKS for each of the hosts, or for all of them one number
    local shell mpiexec name host map even=$1 total=0
    if [ "$hosts" -gt 1 ] && shell=$(remote_shell); then
        # shellcheck disable=SC2016  # for the other shell
        printf '#!/bin/sh\nhost=$1; shift\necho $$ >>"$0.pids"\nexec %s\n' "$shell" >"$scratch/remote-shell"
        chmod +x "$scratch/remote-shell"
        export HYDRA_LAUNCHER=rsh HYDRA_LAUNCHER_EXEC="$scratch/remote-shell"
        # Without a tree this host starts all the others, on which the remote shell is not.
        export PRTE_MCA_plm_ssh_agent="$scratch/remote-shell" PRTE_MCA_plm_ssh_no_tree_spawn=1
    fi
    mpiexec=$(dirname "$python")/mpiexec
    [ -x "$mpiexec" ] || mpiexec=$(command -v mpiexec) || fail "there is no mpiexec" "load the module of $library"
    if [ $# -eq 1 ]; then
        total=$((hosts * $1))
    else
        even=""
        for host in "$@"; do total=$((total + host)); done
    fi
    case $("$mpiexec" --version 2>&1) in
        *"Open MPI"* | *OpenRTE* | *PRRTE*)
            if [ -n "$even" ]; then
                map=ppr:$even:node
                cp "$scratch/hosts" "$scratch/slots"
            else
                map=slot
                printf ' slots=%s\n' "$@" | paste -d '\0' "$scratch/hosts" - >"$scratch/slots"
            fi
            launch=("$mpiexec" -np "$total" --hostfile "$scratch/slots"
                --map-by "$map:oversubscribe" --bind-to none)
            if [ "$hosts" -gt 1 ]; then
                for name in $(compgen -e | grep -vxE '_|PWD|OLDPWD|SHLVL|HOSTNAME|TMPDIR|(OMPI|PMIX|PRTE)_.*'); do
                    launch+=(-x "$name")
                done
            fi ;;
        *HYDRA* | *Intel*)
            if [ -n "$even" ]; then
                launch=("$mpiexec" -f "$scratch/hosts" -n "$total" -ppn "$even")
            else
                printf '%s\n' "$@" | paste -d : "$scratch/hosts" - >"$scratch/slots"
                launch=("$mpiexec" -f "$scratch/slots" -n "$total")
            fi ;;
        *)  # PALS and the like know the hosts of the job
            [ -n "$even" ] || uneven "$@"
            launch=("$mpiexec" -n "$total" --ppn "$even" --cpu-bind none) ;;
    esac
}
uneven() {
    fail "the hosts of the job differ, and this launcher starts equally many ranks on each" \
        "counted on each host: $*; set RAYHPC_RANKS_PER_HOST to a number"
}
on_each_host() { # sets launch, as through_mpiexec
    through_mpiexec "$@"
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

# For the driver: how often the job was requeued. Grid Engine says only whether it was (RESTARTED), so a file counts.
id=${JOB_ID:-none}
counter=$PWD/.rayhpc-restarts-$id
if [ "${RESTARTED:-0}" != 0 ] && [ -f "$counter" ]; then
    RAYHPC_RESTARTS=$(<"$counter")
fi
export RAYHPC_RESTARTS=${RAYHPC_RESTARTS:-0}

# Another launcher may be named, with all its flags: RAYHPC_LAUNCH='mpiexec -n 8 -ppn 2'.
if [ -n "${RAYHPC_LAUNCH:-}" ]; then
    read -ra launch <<<"$RAYHPC_LAUNCH"
fi

echo "rayhpc: ${launch[*]} $python -m rayhpc.start $*" >&2

# With -notify Grid Engine sends USR2 to all processes of the job on this host some time before it kills them (qdel, the
# walltime). The launcher ignores it and gets TERM from this shell instead.
job='' ended=no
stop() {
    ended=yes
    [ -z "$job" ] || kill -TERM "$job" 2>/dev/null || :
}
trap '[ -z "$job" ] || kill -USR1 "$job"' USR1
trap stop USR2 TERM
( trap '' USR2 && exec "${launch[@]}" "$python" -m rayhpc.start "$@" ) &
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

# Grid Engine runs a job again that ends with 99, under the same id, and holds one that ends with 100.
next=no
if [ "$code" -eq 75 ] && [ "$RAYHPC_REQUEUE" = yes ]; then
    if [ "$ended" = yes ]; then
        echo "rayhpc: not requeued: Grid Engine itself is ending job $id, as after qdel" >&2
    elif [ "$RAYHPC_RESTARTS" -ge "$RAYHPC_MAX_RESTARTS" ]; then
        echo "rayhpc: not requeued: $RAYHPC_RESTARTS restarts are all that RAYHPC_MAX_RESTARTS allows" >&2
    else
        echo "rayhpc: the driver wants to be run again: requeueing job $id" >&2
        next=yes
    fi
elif [ "$code" -eq 99 ] || [ "$code" -eq 100 ]; then
    echo "rayhpc: the exit code $code, which means something else to Grid Engine, is passed on as 1" >&2
    code=1
fi
if [ "$next" = yes ]; then
    echo $((RAYHPC_RESTARTS + 1)) >"$counter"
    exit 99
fi
rm -f "$counter"
exit "$code"
