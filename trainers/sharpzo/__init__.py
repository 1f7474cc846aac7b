"""The paper: Algorithm 1 and its two stages."""
