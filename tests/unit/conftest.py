"""Models that several test files look at, built once."""

import functools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest


@pytest.fixture(scope="session")
def build():
    """Build a model by name and options; equal calls share one model, so leave its weights alone."""
    from fedn_partial import models

    @functools.cache
    def build(name, **options):
        return models.build({"name": name, **options})

    return build
