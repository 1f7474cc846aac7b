#!/usr/bin/env bash
# Checks SharpZO on this machine's GPU, or another torch device: values, whole runs, speed. Under 8 minutes on one card.
#
#   tools/maintain/gpu_check.sh [DEVICE [OUTPUT [WHEELS [OPTION ...]]]]   # default: cuda gpu_check wheels; --quick rehearses
#
# Requires Python and torch, but no network: packages of requirements.txt that are missing are installed from the folder WHEELS,
# if it exists, into a temporary folder. Another machine fills WHEELS:
#   python -m pip download --no-deps --only-binary=:all: -d wheels cma open_clip_torch ftfy wcwidth timm polystep safetensors
# Writes OUTPUT/gpu_check.json and OUTPUT/gpu_check.md, part by part, so that an interrupted check leaves its results so far.
# Exit status: 0 all checks passed, 1 a check failed, 2 the check could not start.
set -euo pipefail
device=${1:-cuda} output=${2:-gpu_check} wheels=${3:-wheels}
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
if compgen -G "$wheels/*.whl" > /dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheels"/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
"$python" -m tools.maintain.gpu_check --device "$device" --output "$output" "${@:4}"
