"""Keys of other tools' job files: understood where they mean one of ours, else refused with the name of ours."""

from __future__ import annotations

RENAMED = {
    "python_script": "script",
    "script_args": "args",
    "script_arguments": "args",
    "arguments": "args",
    "entrypoint": "command",
    "run": "command",
    "workdir": "working_dir",
    "working_directory": "working_dir",
    "mounts": "file_mounts",
    "setup": "init_commands",
    "setup_commands": "init_commands",
    "env": "environment",
    "envs": "environment",
    "env_vars": "environment",
    "environment_variables": "environment",
    "dotenv": "env_file",
    "envfile": "env_file",
    "user": "user_id",
    "python_executable": "py_executable",
    "exclude": "excludes",
}
_AMOUNT = "write resources: {num_cpus: 1, num_gpus: 1, memory: 2G}"
_PACKAGES = "a package of yours: file_mounts with install: true; others: init_commands"
_CLUSTER = "the command line says where a job goes: --cluster, --address"
REFUSED = {
    "runtime_env": "write its env_vars as environment, its excludes and py_executable as they are",
    "pip": _PACKAGES,
    "conda": _PACKAGES,
    "py_modules": _PACKAGES,
    **dict.fromkeys(["num_cpus", "num_gpus", "memory", "cpus", "gpus"], _AMOUNT),
    **dict.fromkeys([f"entrypoint_num_{what}" for what in ("cpus", "gpus")], _AMOUNT),
    **dict.fromkeys(["entrypoint_memory", "entrypoint_resources"], _AMOUNT),
    **dict.fromkeys(["address", "cluster", "cluster_address", "ray_address"], _CLUSTER),
    **dict.fromkeys(["job_id", "submission_id", "name"], "each job gets an id of its own, which submit prints"),
    "metadata": "write user_id",
    **dict.fromkeys(["sub_jobs", "jobs"], "one file for each; processes of one program: rayhpc sweep, processes"),
}
