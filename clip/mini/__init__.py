"""Weights of Mini and Mini-RN, which clip/bundled.py loads."""
