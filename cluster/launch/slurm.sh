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
#SBATCH --signal=B:TERM@180
#SBATCH --open-mode=append
#SBATCH --output=nextscale-%j.log
# Of your site: #SBATCH --partition=... --account=...

set -euo pipefail

# Where nextscale is installed: python3 -m venv $VENV && $VENV/bin/pip install '/path/to/nextscale[gpu]'
VENV=${VENV:-$HOME/nextscale-venv}
PORT=${PORT:-6379}
SPEC=${1:?usage: sbatch slurm.sh SPEC [OUT]}
OUT=${2:-out/$(basename "${SPEC%.*}")}

export PATH="$VENV/bin:$PATH"
export RAY_AUTH_MODE=disabled  # Ray asks for a token by default; the nodes' network is trusted here
export RAY_USAGE_STATS_ENABLED=0
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600  # seconds for all nodes to come; its default is 30

# Before its time is over all runs save themselves, and the job is put back into the queue; so it is where the cluster
# went (75).
stopped=
trap 'stopped=yes; nextscale stop "$OUT" --within 120' TERM

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

# One task a node; Ray's own command starts the head where the address is, and workers elsewhere. It ends by stopping
# all Ray that is yours on the node, hence --exclusive. Without --kill-on-bad-exit a node that fails would leave the
# others waiting. It runs beside this shell, which hears the signal that --signal asks for.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 \
    ray symmetric-run \
    --address "${nodes[0]}:$PORT" \
    --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "${SLURM_CPUS_PER_TASK:-1}" \
    --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
    -- \
    nextscale run "$SPEC" --out "$OUT" --address auto &
sweep=$!

wait "$sweep" && code=0 || code=$?
if [[ -n $stopped ]]; then  # that wait was cut short
    wait "$sweep" && code=0 || code=$?
fi
if [[ $code != 0 && (-n $stopped || $code == 75) ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
