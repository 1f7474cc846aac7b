"""What lies on disk, and which images a run uses. The table below is the one list of datasets; nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetInfo:
    """Where a dataset lies under --root_path in CoOp's layout, and its zero-shot template.

    `images`: the folder that the split's paths start from. `split`: the split file, or "" where another reader is needed.
    """

    folder: str
    images: str
    split: str
    template: str = "a photo of a {}."


DATASETS = {
    "digits": DatasetInfo("", "", ""),
    "imagenet": DatasetInfo("imagenet", "images", ""),
    "caltech101": DatasetInfo("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json"),
    "oxford_pets": DatasetInfo("oxford_pets", "images", "split_zhou_OxfordPets.json", "a photo of a {}, a type of pet."),
    "stanford_cars": DatasetInfo("stanford_cars", ".", "split_zhou_StanfordCars.json"),
    "oxford_flowers": DatasetInfo("oxford_flowers", "jpg", "split_zhou_OxfordFlowers.json", "a photo of a {}, a type of flower."),
    "food101": DatasetInfo("food-101", "images", "split_zhou_Food101.json", "a photo of {}, a type of food."),
    "fgvc_aircraft": DatasetInfo("fgvc_aircraft", "images", "", "a photo of a {}, a type of aircraft."),
    "sun397": DatasetInfo("sun397", "SUN397", "split_zhou_SUN397.json"),
    "dtd": DatasetInfo("dtd", "images", "split_zhou_DescribableTextures.json", "{} texture."),
    "eurosat": DatasetInfo("eurosat", "2750", "split_zhou_EuroSAT.json", "a centered satellite photo of {}."),
    "ucf101": DatasetInfo("ucf101", "UCF-101-midframes", "split_zhou_UCF101.json", "a photo of a person doing {}."),
}
