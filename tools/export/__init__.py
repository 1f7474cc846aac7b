"""A tuned prompt as files that an inference-only device runs: without the text tower, PyTorch or this repository."""
