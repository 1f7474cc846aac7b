"""What an optimizer may see of CLIP, and the building blocks that optimizers share."""
