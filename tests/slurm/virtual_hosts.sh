#!/usr/bin/env bash
# virtual_hosts.sh - a real Slurm of several hosts on one Linux machine, for tests. Run as root.
#
#   up N                  bring up ctl (login and controller) and node1 ... nodeN; return once Slurm calls them idle
#   down                  end every host, remove all state; does nothing where nothing is up
#   hold N                `up N`, say "up", wait for the end of standard input, `down`: it ends with its caller
#   exec [-u USER] HOST COMMAND...   run a command on a host in this directory and environment; its exit code is ours
#   kill HOST             power loss: the cable first, so that no FIN or RST tells anybody, then every process at once
#   boot HOST             power on again, with nothing in memory, /tmp, /var/tmp or /dev/shm
#   cut HOST [INTERFACE]  pull the host's cables (or one of them) out of the switch
#   heal HOST [INTERFACE] plug them in again
#   mend                  boot what is dead, heal what is cut, cancel every job, resume drained nodes, wait for idle
#   status                every host with its address, PID 1, cables and state in Slurm
#
# The settings are read by `up` from the environment; the other verbs need VH_STATE only:
#   VH_STATE       state directory: one per cluster, short, not mounted noexec    (/var/lib/virtual-hosts)
#   VH_NETWORKS    INTERFACE=PREFIX of each network a host is on, the first is Slurm's     (eth0=10.231.0)
#   VH_SHARED      colon-separated directories under /tmp or /var/tmp that all hosts share             ()
#   VH_CPUS        CPUs of a node, as Slurm believes                                                  (4)
#   VH_MEMORY_MB   memory of a node, as Slurm believes                                            (16000)
#   VH_GPUS        GPUs of a node, as Slurm believes                                                  (0)
#   VH_GPU_VENDOR  whose variable names a job's GPUs: nvidia, amd, intel                         (nvidia)
#   VH_TMP_SIZE    size limit of /tmp and of /var/tmp                                                (2g)
#   VH_SHM_SIZE    size limit of /dev/shm                                                            (2g)
#   VH_SLURM_CONF  further lines of slurm.conf, e.g. KillWait=30; they win over ours                   ()
#
# A host is a set of namespaces (net, uts, ipc, pid, mount) which lives exactly as long as its PID 1: killing that one
# recorded pid ends every process, mount, interface and socket of the host. Nothing is created in the machine's own
# network or mount namespace. The machine's file system is what the hosts share, /tmp, /var/tmp and /dev/shm excepted.
# Debian 12: slurmctld slurmd slurm-client munge iproute2, and libpmix-dev (not libpmix2) for srun --mpi=pmix.
set -euo pipefail

SELF=$(readlink -f "$0")
STATE=${VH_STATE:-/var/lib/virtual-hosts}
NETWORKS=${VH_NETWORKS:-eth0=10.231.0}
SHARED=${VH_SHARED:-}
CPUS=${VH_CPUS:-4}
MEMORY_MB=${VH_MEMORY_MB:-16000}
GPUS=${VH_GPUS:-0}
GPU_VENDOR=${VH_GPU_VENDOR:-nvidia}
TMP_SIZE=${VH_TMP_SIZE:-2g}
SHM_SIZE=${VH_SHM_SIZE:-2g}
SLURM_CONF_EXTRA=${VH_SLURM_CONF:-}
SIZE=0
SECOND_ACCOUNT=alice
SECOND_ACCOUNT_ID=58731
SETTINGS=(NETWORKS SHARED CPUS MEMORY_MB GPUS TMP_SIZE SHM_SIZE SIZE)

# ---------------------------------------------------------------------------------------------------- small tools

die() { # WHAT [NEXT STEP]
    printf 'virtual_hosts.sh: %s (state: %s)\n' "$1" "$STATE" >&2
    [[ -z ${2:-} ]] || printf '  next: %s\n' "$2" >&2
    exit 1
}

wait_for() { # SECONDS WHAT HOST COMMAND...: run COMMAND until it succeeds; past the deadline show the end of HOST's log
    local deadline=$((SECONDS + $1)) what=$2 log="$STATE/log/$3.log"
    shift 3
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            tail -n 10 "$log" >&2 || :
            die "timed out waiting for $what" "read $log and its neighbours"
        fi
        sleep 0.02
    done
}

locked() { # COMMAND...: one change of a cluster at a time; the lock is the state directory itself and leaves no file
    mkdir -p "$STATE"
    ( exec 9<"$STATE"; flock 9; "$@" )
}

is_up() { [[ -e $STATE/settings ]]; }
hosts() { echo ctl; seq -f node%g 1 "$SIZE"; }
known() { [[ " $(hosts | xargs) " == *" $1 "* ]] || die "there is no host '$1'" "the hosts are: $(hosts | xargs)"; }

address() { # HOST PREFIX
    case $1 in
        switch) echo "$2.254" ;;
        ctl) echo "$2.1" ;;
        *) echo "$2.$((10 + ${1#node}))" ;;
    esac
}
hardware_address() { # HOST PREFIX: the same after a reboot, or the neighbours' ARP tables were wrong for half a minute
    local bytes
    IFS=. read -ra bytes <<<"$(address "$1" "$2")"
    printf '02:00:%02x:%02x:%02x:%02x\n' "${bytes[@]}"
}
first_prefix() { local first=${NETWORKS%% *}; echo "${first#*=}"; }

# ------------------------------------------------------------------------------------------ a host, seen from outside

start_time() { # PID: with its start time a pid names one process for ever; fails for a dead one and for a zombie
    local stat fields
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != [ZX] ]] && echo "${fields[19]}"
}

init_pid() { # HOST: the machine's pid of the host's PID 1; fails unless that is the very process we started
    local pid started
    { read -r pid started <"$STATE/run/$1.pid"; } 2>/dev/null || return 1
    [[ $(start_time "$pid") == "$started" ]] && echo "$pid"
}
is_dead() { ! init_pid "$1" >/dev/null; }

on() { # HOST COMMAND...: replaces this shell. The command gets SIGTERM when its caller dies, however that dies
    local init
    init=$(init_pid "$1") || die "host $1 is not running" "boot $1"
    shift
    exec nsenter --target "$init" --net --uts --ipc --pid --mount -- \
        setpriv --pdeathsig TERM env --chdir="$PWD" "$@"
}

on_as() { # USER HOST COMMAND...: `on`, as another account
    local user=$1 host=$2 home
    shift 2
    home=$(awk -F: -v user="$user" '$1 == user {print $6}' "$STATE/etc/passwd")
    [[ -n $home ]] || die "there is no account '$user'" "use root or $SECOND_ACCOUNT"
    # A change of credentials clears the parent-death signal: so it is set again after it.
    on "$host" setpriv --reuid="$user" --regid="$user" --init-groups \
        setpriv --pdeathsig TERM env --unset=RAYHPC_STATE_DIR HOME="$home" USER="$user" LOGNAME="$user" "$@"
}

ask_slurm() { (cd / && on ctl "$@"); }
in_switch() { nsenter --target "$(init_pid switch)" --net -- "$@"; }

start() { # HOST: its PID 1 is known when this returns; `finish_start` waits for the rest
    rm -f "$STATE/run/$1.pid" "$STATE/run/$1.ready"
    setsid env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 VH_STATE="$STATE" \
        unshare --net --uts --ipc --pid --mount --fork --kill-child -- bash "$SELF" __init "$1" \
        </dev/null >>"$STATE/log/$1.log" 2>&1 9>&- &
    wait_for 10 "PID 1 of $1" "$1" init_pid "$1"
    [[ $1 == switch ]] || plug "$1"
}
finish_start() { wait_for 20 "the start of $1" "$1" test -e "$STATE/run/$1.ready"; }

boot_host() { # HOST
    is_dead "$1" || return 0
    start "$1"
    finish_start "$1"
}

kill_host() { # HOST
    local pid
    pid=$(init_pid "$1") || return 0
    [[ $1 == switch ]] || set_cables down "$1"
    kill -KILL "$pid"
    wait_for 10 "the end of $1" "$1" is_dead "$1"
    [[ $1 == switch ]] || unplug "$1"
}

# --------------------------------------------------------------------------------------------------------- cables

plug() { # HOST: a cable from each of its interfaces to that network's bridge in the switch
    local network interface port
    for network in $NETWORKS; do
        interface=${network%%=*} port="$1-${network%%=*}"
        in_switch ip link add "$port" type veth peer name "$interface" \
            address "$(hardware_address "$1" "${network#*=}")" netns "$(init_pid "$1")"
        in_switch ip link set "$port" master "br-$interface" up
    done
}

unplug() { # HOST: the kernel removes a dead host's cables only some time later, and `boot` needs their names
    local network port
    for network in $NETWORKS; do
        port="$1-${network%%=*}"
        ! in_switch ip link show "$port" >/dev/null 2>&1 || in_switch ip link del "$port" 2>/dev/null || :
    done
}

set_cables() { # up|down HOST [INTERFACE]
    local network
    [[ -z ${3:-} || " $NETWORKS" == *" $3="* ]] || die "there is no interface '$3'" "the networks are: $NETWORKS"
    for network in $NETWORKS; do
        [[ -n ${3:-} && $3 != "${network%%=*}" ]] || in_switch ip link set "$2-${network%%=*}" "$1"
    done
}

cable_states() { # HOST: eth0=UP ...
    local network
    for network in $NETWORKS; do
        printf '%s=%s ' "${network%%=*}" "$(in_switch ip -br link show "$1-${network%%=*}" | awk '{print $2}')"
    done
}

# ------------------------------------------------------------------------------------------------------ the files

write_state() {
    mkdir -p "$STATE/etc"
    cp -a /etc/. "$STATE/etc/"
    rm -rf "$STATE"/etc/{slurm,hosts,resolv.conf,passwd,group} # some may be links
    mkdir -p "$STATE"/{etc/slurm,run,log,private,controller,spool,stage,gpu,"home/$SECOND_ACCOUNT"}
    chmod 755 "$STATE"
    chown "$SECOND_ACCOUNT_ID:$SECOND_ACCOUNT_ID" "$STATE/home/$SECOND_ACCOUNT"
    local name
    for name in "${SETTINGS[@]}"; do printf '%s=%q\n' "$name" "${!name}"; done >"$STATE/settings"
    (umask 077 && head -c 128 /dev/urandom >"$STATE/etc/munge.key")
    write_name_service
    write_slurm_conf >"$STATE/etc/slurm/slurm.conf"
    [[ $GPUS == 0 ]] || write_gpus
}

write_name_service() { # what each host sees as /etc/hosts, /etc/resolv.conf, /etc/passwd and /etc/group
    local host id=$SECOND_ACCOUNT_ID name=$SECOND_ACCOUNT
    {
        printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n'
        for host in $(hosts); do echo "$(address "$host" "$(first_prefix)") $host"; done
    } >"$STATE/etc/hosts"
    # There is no DNS: look-ups are refused at once instead of timing out.
    echo 'nameserver 127.0.0.1' >"$STATE/etc/resolv.conf"
    { echo "$name:x:$id:$id:second account:$STATE/home/$name:/bin/bash"; cat /etc/passwd; } >"$STATE/etc/passwd"
    { echo "$name:x:$id:"; cat /etc/group; } >"$STATE/etc/group"
}

write_slurm_conf() {
    local gres=''
    [[ $GPUS == 0 ]] || gres="Gres=gpu:$GPUS"
    # SlurmdTimeout and MessageTimeout find a dead node in 9 to 15 s instead of minutes. JobRequeue=0 keeps a job in
    # NODE_FAIL instead of PENDING; a job that wants it says --requeue. linuxproc knows a job's process tree only: a
    # daemon that leaves it survives the job, where a site's cgroups would end it, and so a test can see the leak.
    # config_overrides: Slurm believes the NodeName line instead of looking at the machine.
    cat <<CONF
ClusterName=virtual
SlurmctldHost=ctl($(address ctl "$(first_prefix)"))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$STATE/private/munge
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/spool/%n
SlurmctldPidFile=$STATE/private/slurmctld.pid
SlurmdPidFile=$STATE/private/slurmd.pid
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=$((MEMORY_MB / CPUS / 4))
GresTypes=gpu
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
ReturnToService=2
MpiDefault=none
JobRequeue=0
KillWait=10
SlurmdTimeout=5
MessageTimeout=5
$SLURM_CONF_EXTRA
NodeName=node[1-$SIZE] CPUs=$CPUS RealMemory=$MEMORY_MB State=UNKNOWN $gres
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 State=UP
PartitionName=shared Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP OverSubscribe=FORCE:4
CONF
}

write_gpus() { # slurmd wants character devices, and hands out whatever they are: these are /dev/null
    local i
    for ((i = 0; i < GPUS; i++)); do mknod "$STATE/gpu/gpu$i" c 1 3; done
    echo "Name=gpu File=$STATE/gpu/gpu[0-$((GPUS - 1))] Flags=${GPU_VENDOR}_gpu_env" >"$STATE/etc/slurm/gres.conf"
}

# ------------------------------------------------------------------------- a host, from inside: what its PID 1 does

host_init() { # HOST
    announce "$1"
    hostname "$1"
    cd /
    own_directories "$1"
    own_system_files
    own_sysfs "$1"
    mount -t proc proc /proc
    ip link set lo up
    if [[ $1 == switch ]]; then run_switch; else run_host "$1"; fi
    touch "$STATE/run/$1.ready"
    reap_for_ever "$1"
}

announce() { # HOST: /proc is still the machine's, so that /proc/self/stat shows the machine's pid of this process
    local pid rest
    read -r pid rest </proc/self/stat
    printf '%s %s\n' "$pid" "$(start_time "$pid")" >"$STATE/run/$1.tmp"
    mv "$STATE/run/$1.tmp" "$STATE/run/$1.pid"
}

own_directories() { # HOST
    own_directory "$1" /tmp "$TMP_SIZE"
    own_directory "$1" /var/tmp "$TMP_SIZE"
    own_directory "$1" /dev/shm "$SHM_SIZE"
}

own_directory() { # HOST DIRECTORY SIZE: empty and this host's own, but the shared directories in it stay the machine's
    local stage="$STATE/stage/$1" shared
    mkdir -p "$stage"
    mount -t tmpfs -o "mode=1777,size=$3" tmpfs "$stage"
    while IFS= read -r -d : shared; do
        [[ $shared == "$2"/* ]] || continue
        mkdir -p "$stage${shared#"$2"}"
        mount --rbind "$shared" "$stage${shared#"$2"}"
    done <<<"$STATE:$SHARED:"
    mount --move "$stage" "$2"
}

own_system_files() { # all of /etc: a mount on one file there goes when somebody outside replaces the file, as useradd does
    mount --bind "$STATE/etc" /etc
}

own_sysfs() { # HOST: /sys/class/net shows the network namespace in which sysfs was mounted
    mount --rbind /sys/fs/cgroup "$STATE/stage/$1"
    mount -t sysfs sysfs /sys
    mount --move "$STATE/stage/$1" /sys/fs/cgroup
}

run_switch() { # a bridge for each network
    local network bridge
    for network in $NETWORKS; do
        bridge="br-${network%%=*}"
        ip link add "$bridge" type bridge forward_delay 0
        ip addr add "$(address switch "${network#*=}")/24" dev "$bridge"
        ip link set "$bridge" up
    done
    # It routes, to an outside that it calls unreachable: connecting there fails at once.
    echo 1 >/proc/sys/net/ipv4/ip_forward
    ip route add unreachable default
}

run_host() { # HOST
    local network interface
    for network in $NETWORKS; do
        interface=${network%%=*}
        wait_for 10 "the cable of $interface" "$1" ip link show "$interface"
        ip addr add "$(address "$1" "${network#*=}")/24" brd + dev "$interface"
        ip link set "$interface" up
    done
    # Real nodes have a default route, and ways to find one's own address depend on it.
    ip route add default via "$(address switch "$(first_prefix)")"
    run_munged "$1"
    mkdir -p "$STATE/spool/$1"
    if [[ $1 == ctl ]]; then slurmctld -D & else slurmd -D & fi
    wait_for 10 "Slurm's daemon to listen" "$1" listens "$([[ $1 == ctl ]] && echo 6817 || echo 6818)"
}
listens() { [[ -n $(ss -Hltn "sport = :$1") ]]; }

run_munged() { # HOST: its own, since a credential carries the address of the host that made it; same path on all hosts
    mount -t tmpfs -o mode=755,size=1m tmpfs "$STATE/private"
    munged --key-file="$STATE/etc/munge.key" --socket="$STATE/private/munge" --pid-file="$STATE/private/munged.pid" \
        --seed-file="$STATE/private/munge.seed" --log-file="$STATE/log/munged.$1.log" --num-threads=2
}

reap_for_ever() { # HOST: bash reaps every orphan while it waits; a pipe that nobody writes needs no child to wait for
    local pipe="$STATE/run/$1.wait"
    [[ -p $pipe ]] || mkfifo "$pipe"
    while :; do read -r <>"$pipe" || :; done
}

# ---------------------------------------------------------------------------------------------------------- verbs

check_can_start() { # N
    [[ $1 =~ ^([1-9]|[1-9][0-9]|1[0-9][0-9]|200)$ ]] || die "up N: N must be between 1 and 200, not '$1'"
    ! is_up || die "this cluster is up or was not taken down" "$SELF down"
    [[ ! -d $STATE || -z $(ls -A "$STATE") ]] || die "the directory is not empty and not ours" "choose another VH_STATE"
    # AF_UNIX paths end at 107 bytes, and slurmstepd's sockets lie below the state directory.
    ((${#STATE} <= 60)) || die "the state directory's path is longer than 60 bytes" "choose another VH_STATE"
    [[ -d /etc/slurm ]] || die "/etc/slurm is missing" "apt-get install slurmctld slurmd slurm-client munge"
    local shared
    while IFS= read -r -d : shared; do
        [[ -z $shared || -d $shared ]] || die "shared directory $shared does not exist" "correct VH_SHARED"
    done <<<"$SHARED:"
}

all_idle() { # every node idle, and no job left (COMPLETING ones are still in the queue)
    [[ $(ask_slurm sinfo -h -N -p main -o %T | sort -u) == idle && -z $(ask_slurm squeue -h) ]]
}
# slurmctld asks a node that has come back for the jobs that it had before: 24 s on an idle machine.
wait_idle() { wait_for 90 'every node to be idle' slurmctld all_idle; }

up() { # N
    local host
    check_can_start "${1:-}"
    SIZE=$1
    write_state
    start switch
    finish_start switch
    for host in $(hosts); do start "$host"; done
    for host in $(hosts); do finish_start "$host"; done
    wait_idle
}

down() {
    local host
    if is_up; then
        for host in $(hosts | tac) switch; do kill_host "$host"; done
        rm -rf --one-file-system "$STATE"
    else
        rmdir --ignore-fail-on-non-empty "$STATE"
    fi
}

mend() {
    local host job drained
    for host in $(hosts); do
        if is_dead "$host"; then boot_host "$host"; else set_cables up "$host"; fi
    done
    ask_slurm squeue -h -o %A | sort -u | while read -r job; do ask_slurm scancel --quiet "$job"; done
    drained=$(ask_slurm sinfo -h -o %N -t drain)
    [[ -z $drained ]] || ask_slurm scontrol update NodeName="$drained" State=RESUME
    wait_idle
}

status() {
    local host
    for host in $(hosts); do
        printf '%-8s %-15s %-12s %s\n' "$host" "$(address "$host" "$(first_prefix)")" \
            "$(is_dead "$host" && echo dead || echo "pid $(init_pid "$host")")" \
            "$(is_dead "$host" || cable_states "$host")"
    done
    is_dead ctl || ask_slurm sinfo -N -p main -o '%N %T %c %m %G %E'
}

execute() { # [-u USER] HOST COMMAND...
    local user=''
    if [[ ${1:-} == -u ]]; then user=${2:-}; shift 2; fi
    (($# >= 2)) || die 'exec [-u USER] HOST COMMAND...'
    known "$1"
    if [[ -n $user ]]; then on_as "$user" "$@"; else on "$@"; fi
}

hold() { # N
    check_can_start "$1"    # before the trap: it must not take down another cluster of the same state directory
    trap 'bash "$SELF" down' EXIT
    locked up "$1"
    trap '' PIPE    # not before: the hosts would inherit it
    echo up || :    # whoever waits for that word may be gone by now
    while read -r; do :; done
}

usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$SELF"
    exit 2
}

main() { # VERB ARGUMENT...
    local verb=${1:-}
    shift || :
    ((EUID == 0)) || die 'namespaces and mounts need root'
    case $verb in
        up) locked up "${1:-}" ;;
        down) locked down ;;
        hold) hold "${1:-}" ;;
        exec | kill | boot | cut | heal | mend | status | __init)
            is_up || die 'nothing is up' "$SELF up N"
            [[ $verb != @(kill|boot|cut|heal) ]] || known "${1:-}"
            case $verb in
                exec) execute "$@" ;;
                kill) locked kill_host "$1" ;;
                boot) locked boot_host "$1" ;;
                cut) locked set_cables down "$@" ;;
                heal) locked set_cables up "$@" ;;
                mend) locked mend ;;
                status) status ;;
                __init) host_init "$1" ;;
            esac
            ;;
        *) usage ;;
    esac
}

# shellcheck source=/dev/null
! is_up || source "$STATE/settings"
main "$@"
