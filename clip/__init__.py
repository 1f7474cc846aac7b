"""The frozen CLIP: its towers, its prompts. Nothing heavy is imported here."""

# the backbones that lie in the repository, in clip/mini/
MINIS = ("Mini", "Mini-RN")
