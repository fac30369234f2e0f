#!/usr/bin/env bash
# Train on every host of a Cloud TPU slice; cloud_tpu.md says how.
set -euo pipefail

: "${TPU_NAME:?expected the name of a TPU}"
: "${ZONE:?expected the zone of the TPU, like us-east5-b}"
: "${REPOSITORY:?expected the address that git clones memjax from}"
: "${WORKDIR:?expected a folder in a bucket, like gs://BUCKET/RUN}"
EXPERIMENT="${EXPERIMENT:-mem_vae_mnist}"
BATCH_SIZE="${BATCH_SIZE:-128}"
COMMIT="${COMMIT:-HEAD}"

on_every_host() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$1"
}

# The same code everywhere: training refuses processes that were started differently.
on_every_host "set -e
  test -d memjax || git clone $REPOSITORY memjax
  cd memjax
  git fetch --quiet
  git checkout --quiet $COMMIT
  test -x .venv/bin/python || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet -r requirements-tpu.txt"

# JAX finds the other hosts by itself.
on_every_host "cd memjax && .venv/bin/python -m train $EXPERIMENT --workdir $WORKDIR \
  --train.batch-size $BATCH_SIZE --distributed"
