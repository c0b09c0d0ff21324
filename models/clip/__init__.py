"""CLIP through open_clip: backbone, weights, prompts."""

from models.lean import import_lean

import_lean()
