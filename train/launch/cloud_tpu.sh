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

# A shell on the hosts reads the commands again.
quoted() { printf '%q' "$1"; }

on_every_host() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$1"
}

# The same code everywhere: training refuses processes that were started differently.
on_every_host "set -e
  test -d memjax || git clone --quiet $(quoted "$REPOSITORY") memjax
  cd memjax
  git remote set-url origin $(quoted "$REPOSITORY")
  git fetch --quiet --tags --force origin
  git remote set-head origin --auto >/dev/null
  # A branch is where it is now in the repository, not where it was in an earlier run.
  commit=\$(git rev-parse --verify --quiet $(quoted "origin/$COMMIT^{commit}") ||
    git rev-parse --verify $(quoted "$COMMIT^{commit}"))
  git checkout --quiet --detach \$commit
  test -x .venv/bin/python || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet -r requirements-tpu.txt"

# JAX finds the other hosts by itself.
on_every_host "cd memjax && .venv/bin/python -m train $(quoted "$EXPERIMENT") \
  --workdir $(quoted "$WORKDIR") --train.batch-size $(quoted "$BATCH_SIZE") --distributed"
