#!/usr/bin/env bash
# Checks SharpZO on this machine's GPU, or another torch device: right values, whole runs, speed. Under 8 minutes on one card.
#
#   tools/maintain/gpu_check.sh [DEVICE [OUTPUT [WHEELS [OPTION ...]]]]   # default: cuda gpu_check wheels; --quick rehearses
#
# Needs Python and torch, and no network: what else is missing of requirements.txt is installed from the folder WHEELS, where it
# exists, into a temporary place. Another machine fills that folder:
#   python -m pip download --no-deps --only-binary=:all: -d wheels cma open_clip_torch ftfy wcwidth timm polystep safetensors
# Writes OUTPUT/gpu_check.json and OUTPUT/gpu_check.md, part by part, so that a check that is cut off leaves what it has.
# Exit status: 0 all as it should be, 1 something is not, 2 it cannot start.
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
