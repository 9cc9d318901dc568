#!/usr/bin/env bash
# What a GPU is to show, in one go of eight minutes at the most:
#
#     bash benchmarks/on_gpu.sh          on a machine with one NVIDIA GPU, with pip install 'nextscale[gpu]' torch
#     bash benchmarks/on_gpu.sh --dry    every step on a CPU, at tiny shapes: does it run at all
#
# Tables go to standard output and to $OUT (out/on_gpu), a file a step. A step that takes longer than its share is cut
# and told; the others go on. Exits with 1 if one failed.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
out=${OUT:-out/on_gpu}
mkdir -p "$out"
failed=0

# A name, the seconds that it may take, and a command.
step() {
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  echo "== $name: $*"
  if timeout "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.err"; then
    cat "$out/$name.txt"
    echo "== $name took $((SECONDS - began)) s"
  else
    failed=1
    tail -n 3 "$out/$name.err"
    echo "== $name failed, or took more than $limit s"
  fi
}

if [ "${1:-}" = --dry ]; then
  export JAX_PLATFORMS=cpu
  step program 900 "$python" benchmarks/gpu_program.py 64 2 64 512
  step speed 900 "$python" benchmarks/train_step.py 64 --times 1 --dtype bfloat16
  step packing 900 "$python" benchmarks/packing.py 8
else
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || { echo "no NVIDIA GPU here; see --dry"; exit 1; }
  # Rates of the largest first: they are what a goal is set for (55 % of the peak at 1.3B, no slower than PyTorch).
  step program 70 "$python" benchmarks/gpu_program.py
  step speed-1.3B 130 "$python" benchmarks/train_step.py 1.3B --times 1
  step speed-350M 90 "$python" benchmarks/train_step.py 350M --times 1
  step speed-125M 70 "$python" benchmarks/train_step.py 125M --times 1
  step packing 110 env JAX_PLATFORMS=cuda "$python" benchmarks/packing.py 64 128 256 512
fi
exit $failed
