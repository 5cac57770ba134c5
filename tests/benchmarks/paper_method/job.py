"""Common part of both requests of the paper's method."""

import numpy as np

from fedn_partial import models
from fedn_partial.submodel.layers import read_layers


def load_model(job):
    model = models.build(job["model"])
    return model, read_layers(model)


def load_data(job, part: str):
    """Return x and y; images as float32 in [0, 1], all of them in memory."""
    x, y = (np.load(f"{job['data']}/{name}_{part}.npy") for name in "xy")
    return (x.astype("float32") / 255 if x.dtype == np.uint8 else x), y
