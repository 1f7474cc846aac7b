"""Weights of Icons and Icons-RN, which clip/bundled.py loads."""
