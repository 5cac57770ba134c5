"""A validation request with the paper's method: a fresh process, compile, evaluate."""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from fedn.utils.helpers.helpers import get_helper
from job import load_data, load_model

job = json.loads(os.environ["JOB"])
model, _ = load_model(job)
model.compile(keras.optimizers.Adam(0.001), job["loss"], metrics=["accuracy"])
model.set_weights(get_helper("numpyhelper").load(sys.argv[1]))
loss, accuracy = model.evaluate(*load_data(job, "test"), verbose=0)
with open(sys.argv[2], "w") as file:
    json.dump({"loss": loss, "accuracy": accuracy}, file)
