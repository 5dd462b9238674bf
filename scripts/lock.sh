#!/usr/bin/env bash
# Writes the hash-locked lists of requirements/ from pyproject.toml; `make lock UPGRADE=1` takes newer releases.
# They are valid for CPython 3.11 and newer on every platform. They contain packages and hashes only: no index, host or
# path, so that pip and uv use the index that is configured on the machine.
# requirements/postgresql.lock is edited by hand: it has several versions of one package, which no resolver writes.
set -euo pipefail
cd "$(dirname "$0")/.."

upgrade=()
if [ -n "${UPGRADE:-}" ]; then upgrade=(--upgrade); fi

compile() {
    .venv/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-package openkcm "${upgrade[@]}" "$@"
}

compile requirements/installer.in --output-file requirements/installer.lock
# The test list is complete; the runtime list is constrained to its versions, so that the tested versions run.
compile pyproject.toml --extra embedded --extra test --output-file requirements/test.lock
compile pyproject.toml --extra embedded --constraint requirements/test.lock --output-file requirements/runtime.lock
compile pyproject.toml --constraint requirements/test.lock --output-file requirements/production.lock
