#!/usr/bin/env bash
# The sweep behind the paper's tables: datasets × methods × backbones × shots × seeds. Works from any directory.
#
#   ROOT_PATH="/data/coop" DEVICES="cuda:0 cuda:1" ./run_all_final_exps.sh
#   ./run_all_final_exps.sh --root_path "/my data" --datasets eurosat dtd --seeds 1 --dry-run
#   ./run_all_final_exps.sh --datasets digits --processes 2             # on a laptop; downloads nothing
#
# Variables come from the environment or from the lines below; arguments override both (see python -m tools.sweep --help).
# With datasets of your choice, backbones and shots are those of each dataset's YAML unless you give them as well.
# Finished runs are skipped, interrupted ones are resumed, and failed runs are listed at the end. --dry-run prints the plan:
# 1,342 runs by default, 330 of them SharpZO's with 248,600 to 671,352 queries each; --benchmark FILE adds estimated hours.
set -euo pipefail

PAPERS_DATASETS="imagenet oxford_pets oxford_flowers fgvc_aircraft dtd eurosat stanford_cars food101 sun397 caltech101 ucf101"
METHODS=${METHODS:-"zero-shot bbt blackvip zip-20k sharpzo"}
SEEDS=${SEEDS:-"1 2 3"}
ROOT_PATH=${ROOT_PATH:-}
OUTPUT_DIR=${OUTPUT_DIR:-outputs}
DEVICES=${DEVICES:-}     # "cuda:0 cuda:1"; empty: each run chooses
PROCESSES=${PROCESSES:-1}   # per device
PYTHON=${PYTHON:-python}

given=" $* "
if [[ -z "${DATASETS:-}" && "$given" != *" --datasets"[\ =]* ]]; then
    DATASETS=$PAPERS_DATASETS
    BACKBONES=${BACKBONES:-"ViT-B/16 RN50"}
    SHOTS=${SHOTS:-"1 2 4 8 16"}
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"

# Lists are split at blanks on purpose; paths are not.
# shellcheck disable=SC2206
arguments=(--methods $METHODS --seeds $SEEDS --output_dir "$OUTPUT_DIR" --processes "$PROCESSES")
# shellcheck disable=SC2206
{
    if [ -n "${DATASETS:-}" ]; then arguments+=(--datasets $DATASETS); fi
    if [ -n "${BACKBONES:-}" ]; then arguments+=(--backbones $BACKBONES); fi
    if [ -n "${SHOTS:-}" ]; then arguments+=(--shots $SHOTS); fi
    if [ -n "$DEVICES" ]; then arguments+=(--devices $DEVICES); fi
}
if [ -n "$ROOT_PATH" ]; then arguments+=(--root_path "$ROOT_PATH"); fi
exec "$PYTHON" -m tools.sweep "${arguments[@]}" "$@"
