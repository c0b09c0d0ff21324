"""Anomaly models: images in, `Prediction` out. Works in a notebook, without Hydra."""

from models.interrupted import end_while_importing

end_while_importing()
