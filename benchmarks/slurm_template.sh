#!/usr/bin/env bash
# slurm_template.sh "RAY START OPTIONS" COMMAND...: the steps of the Slurm template in Ray's documentation ("Deploying on
# Slurm", slurm-basic.sh), its sleeps included: the head by srun, 10 s, the workers one after the other with 5 s behind
# each, the driver. As there, nothing waits for anything, and Slurm ends the daemons after the script.
read -ra options <<<"$1"
shift

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_ip=$(srun --nodes=1 --ntasks=1 -w "${hosts[0]}" hostname --ip-address)

srun --nodes=1 --ntasks=1 -w "${hosts[0]}" \
    ray start --head --node-ip-address="$head_ip" --port=6379 "${options[@]}" --block &
sleep 10

for host in "${hosts[@]:1}"; do
    srun --nodes=1 --ntasks=1 -w "$host" ray start --address "$head_ip:6379" "${options[@]}" --block &
    sleep 5
done

RAY_ADDRESS=$head_ip:6379 "$@"
