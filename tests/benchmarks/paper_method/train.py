"""A training request with the paper's method: a fresh process, trainable flags, compile, fit, all weights sent.

python train.py IN OUT; the device's settings are in JOB (JSON): model, layers, data, batch_size.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from fedn.utils.helpers.helpers import get_helper
from job import load_data, load_model

job = json.loads(os.environ["JOB"])
helper = get_helper("numpyhelper")
model, layers = load_model(job)
for layer in layers:
    for name in layer.keras_layers:
        model.get_layer(name).trainable = layer.name in job["layers"]
model.compile(keras.optimizers.Adam(0.001), job["loss"], metrics=["accuracy"])
model.set_weights(helper.load(sys.argv[1]))
x, y = load_data(job, "train")
model.fit(x, y, batch_size=job["batch_size"], epochs=1, verbose=0)
helper.save(model.get_weights(), sys.argv[2])
