#!/bin/bash
# @COMMAND|comment@
# on @NODES@ nodes. Send it with sbatch; the same script again resumes, and so does Slurm itself
# when it takes the nodes away: the run stops after a step, saves, and is put into the queue again.
#SBATCH --job-name=@JOB@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@CPUS@
@GPU_LINE@
#SBATCH --time=@TIME|word@
#SBATCH --signal=B:TERM@@GRACE_S@
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail
@SETUP@

# Cached bytecode is most of the speed of starting a worker.
unset PYTHONDONTWRITEBYTECODE
export RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_USAGE_STATS_ENABLED=0
# One token in the shared home protects the cluster; set RAY_AUTH_MODE=disabled to go without.
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
if [ "$RAY_AUTH_MODE" = token ] && [ -z "${RAY_AUTH_TOKEN:-}" ]; then
    ray get-auth-token --generate >/dev/null
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
on_head=(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head")
address="$("${on_head[@]}" hostname -I | awk '{print $1}')"
port=$((20000 + SLURM_JOB_ID % 10000))
room=(--num-cpus=@CPUS@ --num-gpus=@GPUS@)

"${on_head[@]}" ray start --block --head --node-ip-address="$address" --port="$port" "${room[@]}" &
ray=($!)
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    hvdm cluster status address="$address:$port" nodes=1 wait_s=300
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
        ray start --block --address="$address:$port" "${room[@]}" &
    ray+=($!)
fi
hvdm cluster status address="$address:$port" nodes="$SLURM_JOB_NUM_NODES" wait_s=300

@COMMAND@ \
    cluster.address="$address:$port" &
training=$!
trap 'kill -TERM "$training"' TERM
# A signal ends `wait` and not the training: wait until it is really over.
code=0
wait "$training" || code=$?
while kill -0 "$training" 2>/dev/null; do
    code=0
    wait "$training" || code=$?
done
kill -TERM "${ray[@]}" 2>/dev/null || true
if [ "$code" = 75 ]; then
    echo "stopped by a signal, with a checkpoint: back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
