"""The frozen CLIP: its towers and prompts. Importing this package alone loads no library."""

# The backbones whose weights are in the repository, in clip/mini/ and clip/icons/.
MINIS = ("Mini", "Mini-RN")
ICONS = ("Icons", "Icons-RN")
BUNDLED = MINIS + ICONS
