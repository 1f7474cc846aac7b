"""A run's data and weights by content: digests in env.json, and the earlier runs that they do or do not belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from utils.documents import read_yaml
from utils.errors import UserError
from utils.identity import identity
from utils.replay import CHECKPOINT, PREVIOUS_CHECKPOINT
from utils.setting_kinds import PATHS
from utils.settings import Config

# entries of env.json: of the weights, and of the weights, class names, features and labels
WEIGHTS, INPUTS = "weights_sha256", "inputs_sha256"


def refuse_other_inputs(path: Path, digests: Mapping[str, str], finished: bool) -> None:
    """Raises UserError if the run in `path` has a result, or a checkpoint, of other data or weights than these.

    An unfinished run whose env.json lacks them is compared later, when its losses are replayed.
    """
    if not finished and not any((path / name).exists() for name in (CHECKPOINT, PREVIOUS_CHECKPOINT)):
        return
    earlier = _digests(path)
    if earlier.get(INPUTS, None if finished else digests[INPUTS]) == digests[INPUTS]:
        return
    if earlier.get(WEIGHTS, digests[WEIGHTS]) != digests[WEIGHTS]:
        what, flags = "weights", "--checkpoint"
    elif WEIGHTS in earlier:
        what = "images or class names, or features that another machine or version computed"
        flags = "--root_path, --split_file, or --cache_dir for its cached features"
    else:
        what, flags = "data or weights, or comes from another machine", "--root_path, --split_file, --checkpoint"
    run = "a finished run" if finished else "an unfinished run"
    again = "find it again" if finished else "resume it"
    raise UserError(f"{path}: holds {run} with other {what}; give those ({flags}) to {again}, or --run_name NAME for a new run")


def same_run_elsewhere(path: Path, config: Config, digests: Mapping[str, str]) -> str | None:
    """For a new run in `path` on a folder of images: a line on an earlier run with the same settings and content whose folder
    is named after another image folder, as of a job whose images were copied to a folder with a new name."""
    output = Path(config.output_dir)
    if config.dataset != "folder" or not output.is_dir():
        return None
    name, *rest = path.relative_to(output).parts
    for candidate in sorted(output.iterdir()):
        other = candidate.joinpath(*rest)
        if candidate.name == name or _digests(other).get(INPUTS) != digests[INPUTS] or not _same_settings(other, config):
            continue
        state = "finished" if (other / "result.json").exists() else "unfinished"
        same = f"{other}: holds this run, {state}, with the same settings and images"
        return f"{same}; to continue there use --dataset_name {candidate.name}"
    return None


def _same_settings(path: Path, config: Config) -> bool:
    try:
        earlier = identity({key: entry.value for key, entry in read_yaml(path / "config.yaml").items()})
    except UserError:
        return False
    ours = identity(config.as_dict())
    return all(ours[key] == earlier[key] for key in ours if key not in PATHS)


def _digests(path: Path) -> dict[str, str]:
    try:
        document = json.loads((path / "env.json").read_text(encoding="utf-8"))
        return {key: str(document[key]) for key in (INPUTS, WEIGHTS) if key in document}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
