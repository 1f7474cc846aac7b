"""Where each dataset comes from, on whose terms, and what of it a program can fetch: the source of tools.data and DATASET.md.

Addresses and checksums of archives are those of torchvision 0.29 unless `origin` names another source.
"""

from __future__ import annotations

from datasets.pieces import Download, Piece, Source

COOP_GUIDE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
# a repository with CoOp's split files, at the commit that our tests' copies are from
SPLITS = "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/ac9077ee4e422f768c9b9109551468605e33ec9a/splits/"
VGG = "https://www.robots.ox.ac.uk/~vgg/data/"
SPLIT_NOTE = "CoOp's own copy is on Google Drive, linked from its guide"
NO_CHECKSUM = "no checksum is published: the counts are checked"


def _split(name: str, sha256: str = "") -> Piece:
    checksum = f"sha256:{sha256}" if sha256 else ""
    download = Download(SPLITS + name, checksum, origin="the repository")
    return Piece(name, COOP_GUIDE, download, SPLIT_NOTE if sha256 else f"{SPLIT_NOTE}; {NO_CHECKSUM}")


def _archive(
    path: str, page: str, url: str, md5: str, member: str = "", inner: str = "", note: str = "", origin: str = "torchvision 0.29"
) -> Piece:
    return Piece(path, page, Download(url, f"md5:{md5}" if md5 else "", member or path, inner, origin), note)


IMAGENET_TERMS = "by registration; non-commercial research and teaching"
SHIFT_TERMS = "MIT for the repository; the images keep their owners' rights"
NAMES_NOTE = "classnames.txt (lines `wnid name`) is read where it is there; without it the same list in this package serves."
CUT_80_20 = "official training list cut 80/20 within a class; official test list"
CUT_RANDOM = "random 50/20/30 within a class"

SOURCES = {
    "imagenet": Source(
        "ImageNet (ILSVRC 2012)",
        IMAGENET_TERMS,
        "official train; the official validation set is the test set; validation shots are unused training images",
        (
            Piece("images/train", "https://image-net.org", note="ILSVRC2012_img_train.tar, one folder a wnid"),
            Piece("images/val", "https://image-net.org", note="ILSVRC2012_img_val.tar, sorted into one folder a wnid"),
        ),
        ("classnames.txt",),
        (NAMES_NOTE, "Files are taken in sorted order, so that the few-shot draw does not depend on the file system."),
    ),
    "caltech101": Source(
        "Caltech101",
        "CC BY 4.0",
        CUT_RANDOM + "; BACKGROUND_Google and Faces_easy are left out",
        (
            _archive(
                "101_ObjectCategories",
                "https://data.caltech.edu/records/mzrjq-6wc02",
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "3138e1922a9193bfa496528edbbc45d0",
                inner="caltech-101/101_ObjectCategories.tar.gz",
            ),
            _split("split_zhou_Caltech101.json", "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5"),
        ),
    ),
    "oxford_pets": Source(
        "Oxford-IIIT Pet",
        "CC BY-SA 4.0; copyright stays with the photographers",
        CUT_80_20,
        (
            _archive("images", VGG + "pets/", VGG + "pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
            _split("split_zhou_OxfordPets.json"),
        ),
        ("annotations/trainval.txt", "annotations/test.txt"),
    ),
    "stanford_cars": Source(
        "Stanford Cars",
        "non-commercial research; no longer served",
        CUT_80_20,
        (
            Piece("cars_train", COOP_GUIDE, note="the official server is gone; needs a copy from elsewhere"),
            Piece("cars_test", COOP_GUIDE, note="as above"),
            _split("split_zhou_StanfordCars.json"),
        ),
        ("devkit/cars_train_annos.mat", "devkit/cars_meta.mat", "cars_test_annos_withlabels.mat"),
    ),
    "oxford_flowers": Source(
        "Oxford 102 Flowers",
        "none stated",
        CUT_RANDOM + ", not the official 1020/1020/6149",
        (
            _archive(
                "jpg",
                VGG + "flowers/102/",
                "https://thor.robots.ox.ac.uk/flowers/102/102flowers.tgz",
                "52808999861908f626f3c1f4e79d11fa",
            ),
            _split("split_zhou_OxfordFlowers.json", "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794"),
        ),
        ("imagelabels.mat", "cat_to_name.json"),
    ),
    "food101": Source(
        "Food-101",
        "Foodspotting's images; scientific fair use",
        CUT_RANDOM + " of all 101 000, not the official 75 750/25 250",
        (
            _archive(
                "images",
                "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
                "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                "85eeb15f3717b99a5da872d97d918f87",
                "food-101/images",
            ),
            _split("split_zhou_Food101.json"),
        ),
        ("meta",),
    ),
    "fgvc_aircraft": Source(
        "FGVC-Aircraft",
        "non-commercial research",
        "the official three lists",
        tuple(
            _archive(
                path,
                VGG + "fgvc-aircraft/",
                VGG + "fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                "",
                f"fgvc-aircraft-2013b/data/{path}",
                note=NO_CHECKSUM,
            )
            for path in (
                "images",
                "variants.txt",
                "images_variant_train.txt",
                "images_variant_val.txt",
                "images_variant_test.txt",
            )
        ),
        notes=("The folder is the archive's fgvc-aircraft-2013b/data, renamed.",),
    ),
    "sun397": Source(
        "SUN397",
        "none stated; research",
        "partition 01: training list cut 80/20 within a class, testing list; 39 700 of the 108 754 images",
        (
            _archive(
                "SUN397",
                "https://vision.princeton.edu/projects/2010/SUN/",
                "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                "8ca2778205c41d23104230ba66911c7a",
                note="the host is unsteady",
            ),
            _split("split_zhou_SUN397.json"),
        ),
        ("ClassName.txt", "Training_01.txt", "Testing_01.txt"),
    ),
    "dtd": Source(
        "Describable Textures (DTD)",
        "research",
        CUT_RANDOM + ", not the official 40/40/40",
        (
            _archive(
                "images",
                VGG + "dtd/",
                VGG + "dtd/download/dtd-r1.0.1.tar.gz",
                "fff73e5086ae6bdbea199a49dfb8a4c1",
                "dtd/images",
            ),
            _split("split_zhou_DescribableTextures.json", "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38"),
        ),
        ("imdb", "labels"),
    ),
    "eurosat": Source(
        "EuroSAT (RGB)",
        "MIT; Copernicus data are open",
        CUT_RANDOM,
        (
            _archive(
                "2750",
                "https://github.com/phelber/eurosat",
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "c8fa014336c82ac7804f0398fcb19387",
            ),
            _split("split_zhou_EuroSAT.json", "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2"),
        ),
    ),
    "ucf101": Source(
        "UCF101",
        "none stated; YouTube clips",
        "official split 1: trainlist01 cut 80/20 within a class; testlist01",
        (
            Piece("UCF-101-midframes", COOP_GUIDE, note="the middle frame of each clip; CoOp's zip is on Google Drive"),
            _split("split_zhou_UCF101.json"),
        ),
        ("ucfTrainTestlist",),
    ),
    "imagenetv2": Source(
        "ImageNetV2 (matched frequency)",
        SHIFT_TERMS,
        "test images only; a folder's number is its label",
        (
            _archive(
                "imagenetv2-matched-frequency-format-val",
                "https://github.com/modestyachts/ImageNetV2",
                "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
                "",
                note=NO_CHECKSUM,
                origin="",
            ),
        ),
        ("classnames.txt",),
        (NAMES_NOTE,),
    ),
    "imagenet_sketch": Source(
        "ImageNet-Sketch",
        SHIFT_TERMS,
        "test images only",
        (
            Piece(
                "images",
                "https://github.com/HaohanWang/ImageNet-Sketch",
                note="on Google Drive",
                other_path="sketch",
            ),
        ),
        ("classnames.txt",),
        (NAMES_NOTE,),
    ),
    "imagenet_a": Source(
        "ImageNet-A",
        SHIFT_TERMS,
        "test images only, scored among their own 200 classes",
        (
            _archive(
                "imagenet-a",
                "https://github.com/hendrycks/natural-adv-examples",
                "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
                "",
                note=NO_CHECKSUM,
                origin="",
            ),
        ),
        ("classnames.txt", "imagenet-a/README.txt"),
        (NAMES_NOTE,),
    ),
    "imagenet_r": Source(
        "ImageNet-R",
        SHIFT_TERMS,
        "test images only, scored among their own 200 classes",
        (
            _archive(
                "imagenet-r",
                "https://github.com/hendrycks/imagenet-r",
                "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
                "",
                note=NO_CHECKSUM,
                origin="",
            ),
        ),
        ("classnames.txt", "imagenet-r/README.txt"),
        (NAMES_NOTE,),
    ),
}
