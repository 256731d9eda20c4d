#!/usr/bin/env bash
# Trains the embedded model, stage after stage, or goes on where an earlier call was interrupted.
#
#     training/run.sh RUNS VALIDATION PHOTOS...
#
# RUNS is a folder for crops, checkpoints and results; VALIDATION and PHOTOS are folders, tar archives or files of photos.
# PYTHON picks the interpreter, PROCESSES how many processes share a step (one a core), INIT the float16 weights of an
# earlier training that stage codec starts from, STAGES which stages to run, OPTIONS more options of these.
set -euo pipefail

if [ $# -lt 3 ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
fi
mkdir -p "$1"
runs=$(realpath "$1") validation=$(realpath "$2")
mapfile -t photos < <(realpath "${@:3}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
processes=${PROCESSES:-$(nproc)}  # before nproc sees the number of threads
export OMP_NUM_THREADS=1

if [ ! -e "$runs/crops.npy" ]; then
    "${PYTHON:-python}" -m training.cut_crops --photos "${photos[@]}" --out "$runs/crops.npy"
fi
previous=()
if [ -n "${INIT:-}" ]; then previous=(--init $INIT); fi  # one file or several
for stage in ${STAGES:-codec decoder}; do
    if [ ! -e "$runs/$stage/weights.safetensors" ]; then
        "${PYTHON:-python}" -m torch.distributed.run --nproc-per-node "$processes" -m "training.train_$stage" \
            --crops "$runs/crops.npy" --validation "$validation" --out "$runs/$stage" "${previous[@]}" ${OPTIONS:-}
    fi
    previous=(--init "$runs/$stage/weights.safetensors")
done
