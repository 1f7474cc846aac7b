"""BlackVIP: a visual prompt on the pixels, and the networks that generate it."""
