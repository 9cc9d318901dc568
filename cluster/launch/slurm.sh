#!/bin/bash
# A sweep on GPU nodes of a Slurm cluster: sbatch slurm.sh SPEC [OUT]
# Ray is started on every node, the sweep on the first; when that ends so does all else. Submitted again, or put back
# into the queue, it goes on from wherever it stands. SPEC, OUT and the environment lie on a file system of all nodes.

#SBATCH --job-name=nextscale
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:TERM@180
#SBATCH --open-mode=append
#SBATCH --output=nextscale-%j.log
# Of your site: #SBATCH --partition=... --account=...

set -euo pipefail

# Where nextscale is installed: python3 -m venv $VENV && $VENV/bin/pip install '/path/to/nextscale[gpu]'
VENV=${VENV:-$HOME/nextscale-venv}
export PORT=${PORT:-6379}
export WAIT=${WAIT:-600}  # seconds for the head to come, or to come back
SPEC=${1:?usage: sbatch slurm.sh SPEC [OUT]}
OUT=${2:-out/$(basename "${SPEC%.*}")}

export PATH="$VENV/bin:$PATH"
export RAY_AUTH_MODE=disabled  # Ray asks for a token by default; the nodes' network is trusted here
export RAY_USAGE_STATS_ENABLED=0
export RAY_raylet_start_wait_time_s=180  # its default of 30 is short for a busy file server

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export HEAD=${nodes[0]}

answers() { (exec 3<>"/dev/tcp/$HEAD/$PORT") 2>/dev/null; }

# Before its time is over all runs save themselves, and the job is put back into the queue; so it is where the cluster
# went (75). Nothing here waits for a node that is gone: all that is left ends with this shell.
sweep='' stopped=''
trap 'stopped=yes; [[ -z $sweep ]] || kill -TERM "$sweep" || true' TERM

# A node whose Ray has ended, as it does when the node was cut off for long, joins again; one that the head has not
# answered for long gives up. --wait=0 and --kill-on-bad-exit=0: a node that fails is no reason to end the others.
# --output: whoever writes to files of its own waits for nobody else when the job ends.
# shellcheck disable=SC2016  # each node is to know these for itself
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --no-kill --wait=0 --kill-on-bad-exit=0 \
    --output="nextscale-$SLURM_JOB_ID-ray-%n.log" --open-mode=append bash -c '
    ray="ray start --num-cpus=${SLURM_CPUS_PER_TASK:-1} --num-gpus=${SLURM_GPUS_ON_NODE:-0} --block"
    if [[ $SLURM_NODEID == 0 ]]; then exec $ray --head --port="$PORT" --include-dashboard=false; fi
    '"$(declare -f answers)"'
    heard=$SECONDS
    while ((SECONDS - heard < WAIT)); do
        if answers; then $ray --address="$HEAD:$PORT" || true; heard=$SECONDS; fi
        sleep 2
    done' &
cluster=$!

{
    until answers; do
        if ((SECONDS > WAIT)) || ! kill -0 "$cluster"; then
            echo "no head of Ray answers at $HEAD:$PORT" >&2
            exit 1
        fi
        sleep 1
    done
    exec nextscale run "$SPEC" --out "$OUT" --address "$HEAD:$PORT"
} &
sweep=$!

wait "$sweep" && code=0 || code=$?
if [[ -n $stopped ]]; then  # that wait was cut short
    wait "$sweep" && code=0 || code=$?
fi
if [[ $code != 0 && (-n $stopped || $code == 75) ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
