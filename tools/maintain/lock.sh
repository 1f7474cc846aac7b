#!/usr/bin/env bash
# Writes requirements-lock.txt and requirements-dev-lock.txt: every package with its version and the hashes of its files, for
# the platforms that pyproject.toml names under [tool.uv]. Needs uv (pip install uv).
#
#   tools/maintain/lock.sh                    # the newest versions that the ranges allow
#   tools/maintain/lock.sh versions.txt       # those of `pip freeze > versions.txt`, of the environment that made the numbers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
options=(--universal --python-version 3.11 --generate-hashes --no-annotate --quiet --custom-compile-command tools/maintain/lock.sh)
if [ $# -gt 0 ]; then options+=(--constraint "$1"); fi
uv pip compile "${options[@]}" requirements.txt -o requirements-lock.txt
uv pip compile "${options[@]}" --constraint requirements-lock.txt requirements-dev.txt -o requirements-dev-lock.txt
