# shellcheck shell=sh
# File mounts of a job: each is put into its place at the beginning, and exactly those are taken back at the end. Read by
# the job's shell, in which rayhpc_job is the directory that this file is in.

# From here on the job's end, whatever it is, takes the mounts back. The notes, a link for each, say which are ours.
# shellcheck disable=SC2016,SC2154 # the inner shell's own variables; what the job's shell has set
rayhpc_begin_mounts() {
    rayhpc_notes=$(mktemp -d "$rayhpc_job/mounts-XXXXXX")
    trap rayhpc_take_back EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # Ray kills a job that does not end within 3 s of SIGTERM, and no trap outlives that: so somebody of a session of
    # its own looks after this shell.
    (
        setsid sh -c 'trap "" HUP INT TERM
            rayhpc_notes=$2
            . "$1/mounts.sh"
            while kill -0 "$3"; do sleep 1; done
            rayhpc_take_back' rayhpc-mounts "$rayhpc_job" "$rayhpc_notes" $$ < /dev/null > /dev/null 2>&1 &
    )
}

# Arguments: the mount's number, the directory it comes into, its place. A file is made with O_EXCL and a directory by
# mkdir, so that of two jobs at once one gets the place.
rayhpc_mount() {
    [ -d "$2" ] || rayhpc_refuse "$3" "$2 is no directory"
    if [ -e "$3" ] || [ -h "$3" ]; then rayhpc_refuse "$3" 'it exists already'; fi
    rayhpc_archive=$rayhpc_job/mount-$1
    if [ -f "$rayhpc_archive" ]; then
        (umask 077 && set -C && : > "$3") || rayhpc_refuse "$3" 'it cannot be made'
    else
        rayhpc_archive=$rayhpc_archive.d
        mkdir -m 700 -- "$3" || rayhpc_refuse "$3" 'it cannot be made'
    fi
    ln -s -- "$3" "$rayhpc_notes/$1"
    tar -xof "$rayhpc_archive" -C "$2"
}

rayhpc_refuse() {
    echo "rayhpc: the file mount $1 cannot be put into its place on $(uname -n): $2" >&2
    exit 78
}

rayhpc_take_back() {
    for rayhpc_note in "$rayhpc_notes"/*; do
        [ ! -h "$rayhpc_note" ] || rm -rf -- "$(readlink "$rayhpc_note")"
    done
    rm -rf -- "$rayhpc_notes"
}
