"""Tunes a prompt on a folder of pictures, one sub-folder per class, and classifies pictures with it.

python examples/folder_of_pictures.py PICTURES OUTPUT IMAGE…
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from main_sharpzo import main
from trainers.classifier import Classifier

pictures, output, *images = sys.argv[1:]
settings = ["--intrinsic_dim", "64", "--std", "0.1", "--zo_lr", "0.1", "--change_point", "10", "--total_steps", "100"]
where = [
    "--dataset",
    "folder",
    "--root_path",
    pictures,
    "--output_dir",
    output,
    "--backbone",
    "Mini",
    "--shots",
    "4",
    "--short_classes",
    "take-all",
]
status = main([*where, *settings])
if status:
    sys.exit(status)
(prompt,) = Path(output).rglob("prompt.safetensors")
labels, probabilities = Classifier.load(prompt).predict(images)
for image, label, row in zip(images, labels, probabilities, strict=True):
    print(f"{image}: {label} ({row.max():.0%})")
