"""The frozen CLIP: its towers and prompts. Importing this package alone loads no library."""

# the backbones bundled with the repository, in clip/mini/
MINIS = ("Mini", "Mini-RN")
