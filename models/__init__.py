"""Anomaly models: images in, `Prediction` out. Works in a notebook, without Hydra."""
