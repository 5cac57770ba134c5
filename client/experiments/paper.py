"""Load the figures printed in the paper (Alawadi et al. 2023) from configs/paper.yaml."""

from __future__ import annotations

import functools
from pathlib import Path

from fedn_partial import configs
from fedn_partial.settings.yaml_file import read_yaml


@functools.cache
def figures() -> dict:
    """Return the content of configs/paper.yaml."""
    return read_yaml(Path(configs.__file__).with_name("paper.yaml"))
