"""Anomaly models: images in, `Prediction` out. Works in a notebook, without Hydra."""

import os

from models.interrupted import end_while_importing
from models.weights.cache import offline_by

end_while_importing()
if offline_by():
    os.environ["HF_HUB_OFFLINE"] = "1"  # what open_clip and timm fetch comes through Hugging Face's client
