"""Zeroth-order optimizers of any vector, each a trainer or a second stage."""
