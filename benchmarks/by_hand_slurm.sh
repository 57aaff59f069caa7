#!/usr/bin/env bash
# by_hand_slurm.sh DIRECTORY "RAY START OPTIONS" COMMAND...: what somebody types who knows Ray and has a terminal on every
# host: `ray start` everywhere at once, and the driver as soon as the head says that it runs. Slurm ends the daemons.
directory=$1
read -ra options <<<"$2"
shift 2

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_ip=$(hostname --ip-address)

srun --nodes=1 --ntasks=1 -w "${hosts[0]}" \
    ray start --head --node-ip-address="$head_ip" --port=6379 "${options[@]}" --block >"$directory/head.log" 2>&1 &
for host in "${hosts[@]:1}"; do
    srun --nodes=1 --ntasks=1 -w "$host" ray start --address "$head_ip:6379" "${options[@]}" --block &
done

until grep -q 'Ray runtime started' "$directory/head.log"; do sleep 0.02; done
RAY_ADDRESS=$head_ip:6379 "$@"
