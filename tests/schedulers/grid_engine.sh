#!/usr/bin/env bash
# A real Grid Engine on hosts that share a directory and see each other's names.
#
#   grid_engine.sh master ROOT HOST...   on the first host: write the cell below ROOT, start the master, name the HOSTs
#   grid_engine.sh execd ROOT            on each other host, when the master is there
#   grid_engine.sh end ROOT              on the first host: end the master and all execds
#
# Debian 12: gridengine-master, -exec, -client and -common, of which /usr/lib/gridengine and /usr/share/gridengine are
# enough; libjemalloc2. Their qsub in /usr/bin would take the place of slurm-wlm-torque's.
set -euo pipefail

PROGRAMS=/usr/lib/gridengine
GIVEN=/usr/share/gridengine
verb=$1 root=$2
# The programs find their library for the spool here.
export LD_LIBRARY_PATH=$PROGRAMS
export SGE_ROOT=$root SGE_CELL=default SGE_QMASTER_PORT=6444 SGE_EXECD_PORT=6445 PATH=$PROGRAMS:$PATH
common=$root/default/common spool=$root/spool/qmaster

write_cell() {
    mkdir -p "$common" "$spool/job_scripts" "$root/spool/execd" "$root/bin" "$root/utilbin"
    ln -s "$PROGRAMS" "$root/bin/lx-amd64"
    ln -s "$PROGRAMS" "$root/utilbin/lx-amd64"
    ln -s "$GIVEN/util" "$root/util"
    hostname >"$common/act_qmaster"
    cat >"$common/bootstrap" <<BOOTSTRAP
admin_user none
default_domain none
ignore_fqdn true
spooling_method classic
spooling_lib libspoolc
spooling_params $common;$spool
binary_path $PROGRAMS
qmaster_spool_dir $spool
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
jvm_threads 0
BOOTSTRAP
    # Jobs of root, and short intervals: an execd that is silent for 10 s is lost, and its jobs with it.
    sed -e "s#^execd_spool_dir.*#execd_spool_dir $root/spool/execd#" -e 's/^min_[ug]id.*/# &/' -e 's#^mailer.*#mailer /bin/true#' \
        -e 's/^load_report_time.*/load_report_time 00:00:01/' -e 's/^max_unheard.*/max_unheard 00:00:10/' \
        -e 's/flush_time=00:00:15/flush_time=00:00:01/' "$GIVEN/default-configuration" >"$root/configuration"
    printf 'min_uid 0\nmin_gid 0\n' >>"$root/configuration"
    spoolinit classic libspoolc "$common;$spool" init
    spooldefaults.bin configuration "$root/configuration"
    spooldefaults.bin complexes "$GIVEN/util/resources/centry"
    spooldefaults.bin usersets "$GIVEN/util/resources/usersets"
    spooldefaults.bin managers root
}

parallel_environment() { # NAME RULE: how many slots a host gives
    cat >"$root/pe" <<PE
pe_name $1
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $2
control_slaves TRUE
job_is_first_task FALSE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
PE
    qconf -Ap "$root/pe"
}

wait_for() { # COMMAND...: at most 20 s
    local end=$((SECONDS + 20))
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= end)); then
            "$@" || tail "$spool/messages" >&2
            exit 1
        fi
        sleep 0.1
    done
}

case $verb in
    master)
        shift 2
        write_cell
        cd "$root"
        sge_qmaster </dev/null >"$root/qmaster.log" 2>&1
        wait_for qconf -sh
        qconf -as "$(hostname)"
        for host; do
            qconf -ah "$host"
            qconf -as "$host"
        done
        parallel_environment mpi 1
        parallel_environment pairs 2
        qconf -sq >"$root/queue"
        sed -i "s/^qname.*/qname main.q/; s/^hostlist.*/hostlist $*/; s/^pe_list.*/pe_list mpi pairs/; s/^slots.*/slots 4/
            s/^load_thresholds.*/load_thresholds NONE/; s/^notify .*/notify 00:00:20/; s/^shell .*/shell \/bin\/bash/" "$root/queue"
        qconf -Aq "$root/queue"
        qconf -ssconf >"$root/scheduler"
        sed -i 's/^schedule_interval.*/schedule_interval 0:0:1/; s/^flush_\(submit\|finish\)_sec.*/flush_\1_sec 1/' "$root/scheduler"
        qconf -Msconf "$root/scheduler"
        ;;
    execd)
        cd "$root"
        sge_execd </dev/null >"$root/execd.$(hostname).log" 2>&1
        ;;
    end)
        qconf -ke all || :
        qconf -km || :
        ;;
esac
