"""Nets of timm, trained on ImageNet."""

from models.lean import import_lean

import_lean()
