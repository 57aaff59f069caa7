"""Every variable that is no option's own: who sets it, and what it means. A test compares it with the code."""

from __future__ import annotations

# Read by rayhpc itself.
READ = {
    "RAYHPC_RAY_PATCHES": "`0` leaves out everything that touches Ray's private names: Ray starts as it always does",
    "RAYHPC_STATE_DIR": "the registry of clusters, for login and compute hosts; default `~/.local/state/rayhpc`",
    "RAYHPC_ADDRESS": "the cluster of `rayhpc job` and `rayhpc cluster`, where no option names one",
    "RAYHPC_PROMETHEUS": "`--metrics`: the Prometheus to run, where the one on PATH is not meant",
    "RAYHPC_SWEEP_DIR": "where `rayhpc sweep` records its sweeps",
    "RAYHPC_SUBMITTED_BY": "the version that has submitted this job, which a check compares with the job's own",
    "RAYHPC_SITE": "the site whose table the doctor compares; jobs of `--site` have it",
    "RAYHPC_RANK": "`--rendezvous=file`: the number of this process",
    "RAYHPC_SIZE": "`--rendezvous=file` and `tcp`: the number of processes",
    "RAYHPC_HEAD": "`--rendezvous=tcp` and `rayhpc node worker`: HOST:PORT of rank 0",
    "RAYHPC_NODES": "`rayhpc node head`: the head and its workers, so many terminals",
    "RAYHPC_RENDEZVOUS_FILE": "`--rendezvous=file`: the file that all processes see",
    "RAYHPC_TOKEN_FILE": "`--rendezvous=tcp` and `rayhpc node`: the file of the secret",
    "RAY_HEAD_IP": "`rayhpc node`: the head's address, where neither an option nor a variable of ours says it",
    "RAY_HEAD_PORT": "`rayhpc node`: the port where the terminals meet, in the same way",
}
# Read by the jobscripts.
SCRIPTS = {
    "RAYHPC_VENV": "the environment of the job: a virtual one, one of conda, any directory with `bin/python`",
    "RAYHPC_DRIVER": "the driver and its arguments, where the script gets none; split at spaces",
    "RAYHPC_RANKS_PER_HOST": "Ray nodes on each host: a number, `gpu` or `numa`; default 1",
    "RAYHPC_CPUS_PER_HOST": "`theta.pbs`: CPUs of a compute host; default those of the host where the script runs",
    "RAYHPC_REQUEUE": "`no`: the job does not run again when the driver ends with 75",
    "RAYHPC_MAX_RESTARTS": "how often the job may run again; default 10",
    "RAYHPC_ON_HOST_LOSS": "`continue`: a Slurm job goes on without a lost host; default `end`",
    "RAYHPC_CONTAINER": "the image in which the ranks run, by its file or name: [Containers](../containers.md)",
    "RAYHPC_CONTAINER_RUNTIME": "`apptainer`, `singularity`, `charliecloud`, `podman-hpc` or `shifter`, where the "
    "first that is there is not meant",
    "RAYHPC_CONTAINER_PYTHON": "Python in the image; default `python3`",
    "RAYHPC_CONTAINER_BINDS": "more directories of the hosts that the image shall have, divided by spaces",
    "RAYHPC_LAUNCH": "another launcher with its flags, as `mpirun -np 8`",
    "RAYHPC_CHAIN": "PBS, Torque, Cobalt, Flux: the id of the first attempt; the script sets it",
    "RAYHPC_FLUX_JOB": "Flux: the id of the job in the instance that runs it; the script sets it",
}
# Set for the driver.
DRIVER = {
    "RAYHPC_RUN_ID": "the name of this run",
    "RAYHPC_RUN_DIR": "the directory of this run",
    "RAYHPC_ALIVE_NODES": "how many Ray nodes were alive when the driver started",
    "RAYHPC_DEADLINE": "the end of the job in Unix seconds as it was known at the start; missing where none is known",
    "RAYHPC_DEADLINE_FILE": "a file with the end of the job as it is now",
    "RAYHPC_STOP_TIMEOUT": "seconds that the driver has to end after INT or TERM",
    "GLOO_SOCKET_IFNAME": "the host's interface in this run, for tasks and actors as well, unless you set it",
    "NCCL_SOCKET_IFNAME": "the same after a `=`, as NCCL and RCCL write it",
    "RAYHPC_RESTARTS": "how often the jobscript has run this job again",
    "RAYHPC_TRIAL_ID": "in a sweep: the name of the trial",
    "RAYHPC_TRIAL_DIR": "in a sweep: the directory of the trial",
    "RAYHPC_TRIAL_CPUS": "in a sweep: the CPUs that the trial holds on its host",
    "RAYHPC_TRIAL_GPUS": "in a sweep: the GPUs that the trial holds on its host",
    "RAYHPC_TRIAL_METRICS": "in a sweep: the file to which the trial appends its reports",
}
# Between processes of rayhpc: not for users.
INTERNAL = ("RAYHPC_NODE", "RAYHPC_NODE_TABLE", "RAYHPC_RAY_DASHBOARD", "RAYHPC_RAY_METRICS", "RAYHPC_RAY_TEMP_DIR")
