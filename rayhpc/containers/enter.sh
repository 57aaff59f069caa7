# shellcheck shell=bash
# RAYHPC_CONTAINER=ray.sif: the ranks run in an image. A jobscript sources this file; it has `fail`, and its `python` is
# the host's. A program `python` that enters the image comes first on PATH, in a directory that the hosts share.

enter() { # RUNTIME IMAGE PYTHON RUNS PLACES WORD...: replace this shell by Python in the image, on any host of the job
    local runtime=$1 image=$2 python=$3 runs=$4 places=" $5 " place program words=()
    shift 5
    program=$(type -P "$runtime") || { echo "rayhpc: there is no $runtime  [$(hostname)]" >&2 && exit 78; }
    unset VIRTUAL_ENV CONDA_PREFIX PYTHONHOME # are the host's
    case $runtime in
        apptainer | singularity)
            words=(exec --pwd "$PWD")
            [ ! -e /dev/nvidiactl ] || words+=(--nv)
            [ ! -e /dev/kfd ] || words+=(--rocm) ;;
        ch-run) # its environment is the host's, PATH too, but for what the image's own file sets
            export USER=${USER:-$(id -un)} PATH=/usr/local/bin:/usr/bin:/bin:$PATH
            words=(--cd="$PWD")
            [ ! -e "$image/ch/environment" ] || words+=(--set-env) ;;
        podman-hpc)
            words=(run --rm --env-host --network=host --ipc=host --pid=host --workdir="$PWD")
            [ ! -e /dev/nvidiactl ] || words+=(--gpu) ;;
        shifter)
            words=(--image="$image" --workdir="$PWD")
            [ ! -e /dev/nvidiactl ] || words+=(--module=gpu) ;;
    esac
    # Besides what was asked for: work, home, node-local directories, the sockets of munge, Slurm and PMIx, and PALS.
    for place in "$PWD" "$runs" "$HOME" "${RAYHPC_STATE_DIR:-}" "${TMPDIR:-/tmp}" /dev/shm \
        /run/munge /var/spool/slurmd /var/run/palsd $places; do
        [ -e "$place" ] || continue
        case $runtime:$place in
            apptainer:* | singularity:*) words+=(--bind "$place") ;;
            podman-hpc:/dev/shm) ;; # is there by --ipc
            podman-hpc:*) words+=(--volume="$place:$place") ;;
            ch-run:/dev/* | ch-run:/tmp | ch-run:/tmp/*) ;; # are there
            ch-run:*) # it makes no mount points
                [ ! -d "$image" ] || [ -e "$image$place" ] || mkdir -p "$image$place"
                words+=(--bind="$place:$place") ;;
            shifter:"$runs") words+=(--volume="$place:$place") ;;
            shifter:*) [[ $places != *" $place "* ]] || words+=(--volume="$place:$place") ;; # the site's are there
        esac
    done
    case $runtime in
        shifter) ;;
        ch-run) words+=("$image" --) ;;
        *) words+=("$image") ;;
    esac
    exec "$program" "${words[@]}" "$python" "$@"
}

container() {
    local image=$RAYHPC_CONTAINER runtime=${RAYHPC_CONTAINER_RUNTIME:-} able name found='' program directory
    case $image in
        *.sif | *://*) able="apptainer singularity" ;;
        *.sqfs | *.squashfs | /* | ./*) able="ch-run apptainer singularity" ;;
        *) able="podman-hpc shifter ch-run apptainer singularity" ;;
    esac
    case $runtime in
        charliecloud) runtime=ch-run ;;
        "" | apptainer | singularity | ch-run | podman-hpc | shifter) ;;
        *) fail "RAYHPC_CONTAINER_RUNTIME=$runtime is no runtime that rayhpc knows" \
            "apptainer, singularity, charliecloud, podman-hpc or shifter" ;;
    esac
    for name in ${runtime:-$able}; do
        if [ -z "$found" ] && type -P "$name" >/dev/null; then found=$name; fi
    done
    [ -n "$found" ] || fail "nothing on this host runs the image $image: there is no ${runtime:-${able// /, no }}" \
        "load its module among the site's facts, or name another in RAYHPC_CONTAINER_RUNTIME"
    case $found:$image in
        *://* | podman-hpc:* | shifter:*) ;;
        *) [ -e "$image" ] || fail "there is no image $image" "correct RAYHPC_CONTAINER"
            image=$(cd "$(dirname "$image")" && pwd)/${image##*/} ;;
    esac
    directory=${RAYHPC_RUN_DIR:-rayhpc-runs}/containers
    mkdir -p "$directory" || fail "$directory cannot be made" "set RAYHPC_RUN_DIR to a place that all hosts share"
    directory=$(cd "$directory" && pwd)
    program="#!/usr/bin/env bash
$(declare -f enter)
$(printf '%q ' enter "$found" "$image" "${RAYHPC_CONTAINER_PYTHON:-python3}" "${directory%/*}" \
        "${RAYHPC_CONTAINER_BINDS:-}")\"\$@\""
    directory+=/$(cksum <<<"$program" | cut -d ' ' -f 1)
    # Jobs that start at the same moment may write it together.
    mkdir -p "$directory"
    echo "$program" >"$directory/$$"
    chmod 700 "$directory/$$"
    mv "$directory/$$" "$directory/python"
    export PATH=$directory:$PATH
}
container
