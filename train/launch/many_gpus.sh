#!/usr/bin/env bash
# Train on all GPUs of this machine, or on some of them; many_gpus.md says how.
set -euo pipefail

: "${WORKDIR:?expected a folder for the run}"
PYTHON="${PYTHON:-.venv/bin/python}"
EXPERIMENT="${EXPERIMENT:-mem_vae_mnist}"
BATCH_SIZE="${BATCH_SIZE:-128}"

# One process drives all GPUs. In place of the shell, which would keep SIGTERM to itself.
exec "$PYTHON" -m train "$EXPERIMENT" --workdir "$WORKDIR" --train.batch-size "$BATCH_SIZE"
