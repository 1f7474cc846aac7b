#!/usr/bin/env bash
# The sweep behind the paper's tables: datasets × methods × backbones × shots × seeds. Works from any directory.
#
#   ROOT_PATH="/data/coop" DEVICES="cuda:0 cuda:1" ./run_all_final_exps.sh
#   ./run_all_final_exps.sh --root_path "/my data" --datasets eurosat dtd --seeds 1 --dry-run
#   ./run_all_final_exps.sh --datasets digits --backbones Mini --processes 2        # on a laptop, nothing downloaded
#
# Variables come from the environment or from the lines below; arguments win over both (see python -m tools.sweep --help).
# What is finished is skipped, what was interrupted goes on, failed runs are named at the end. --dry-run prints the plan.
# As it stands: 1 342 runs. SharpZO's alone are 330, of 248 600 to 671 352 queries each; --dry-run --benchmark FILE
# estimates their hours on your machine.
set -euo pipefail

DATASETS=${DATASETS:-"imagenet oxford_pets oxford_flowers fgvc_aircraft dtd eurosat stanford_cars food101 sun397 caltech101 ucf101"}
METHODS=${METHODS:-"zero-shot bbt blackvip zip-20k zo-pruned"}
BACKBONES=${BACKBONES:-"ViT-B/16 RN50"}
SHOTS=${SHOTS:-"1 2 4 8 16"}
SEEDS=${SEEDS:-"1 2 3"}
ROOT_PATH=${ROOT_PATH:-}
OUTPUT_DIR=${OUTPUT_DIR:-outputs}
DEVICES=${DEVICES:-}     # "cuda:0 cuda:1": one process on each; empty: PROCESSES processes
PROCESSES=${PROCESSES:-1}
PYTHON=${PYTHON:-python}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

# lists are split at blanks on purpose; paths are not
# shellcheck disable=SC2206
arguments=(--datasets $DATASETS --methods $METHODS --backbones $BACKBONES --shots $SHOTS --seeds $SEEDS --output_dir "$OUTPUT_DIR")
if [ -n "$ROOT_PATH" ]; then arguments+=(--root_path "$ROOT_PATH"); fi
# --devices and --processes exclude each other, so an argument of either kind replaces both variables
given=" $* "
if [[ "$given" != *" --devices"[\ =]* && "$given" != *" --processes"[\ =]* ]]; then
    # shellcheck disable=SC2206
    if [ -n "$DEVICES" ]; then arguments+=(--devices $DEVICES); else arguments+=(--processes "$PROCESSES"); fi
fi
exec "$PYTHON" -m tools.sweep "${arguments[@]}" "$@"
