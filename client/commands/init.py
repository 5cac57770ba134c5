"""The command init."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from fedn_partial.client.commands.common import command, shell_words
from fedn_partial.errors import FednPartialError

PLACEHOLDER = "PROJECT"  # for the project's name in the files of configs/project


@command(click, "init", "fedn-partial init my_project && cd my_project && fedn-partial simulate case.yaml")
@click.argument("folder", type=Path)
def init_command(folder):
    """Create a project in FOLDER: a case, a small Keras model, a data set, client.yaml and a README.

    The project runs without changes on Fashion-MNIST (Debian: apt install dataset-fashion-mnist).
    """
    files = create_project(folder)
    click.echo(f"{folder}: {', '.join(files)}")
    enter = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    click.echo(f"run it with: {enter}{shell_words('simulate', 'case.yaml')}")


def create_project(folder: Path) -> list[str]:
    """Write the files of configs/project to `folder`, with its name in them, and return their names.

    Raises
    ------
    FednPartialError : `folder` is a file, or not empty.
    """
    from fedn_partial import configs
    from fedn_partial.runtime.atomic import write_text

    if folder.exists() and not folder.is_dir():
        raise FednPartialError(f"{folder} is a file; name a new folder")
    if folder.exists() and any(folder.iterdir()):
        raise FednPartialError(f"{folder} exists and is not empty; name a new folder")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name) or "project"
    template = Path(configs.__file__).parent / "project"
    paths = sorted(path for path in template.iterdir() if path.is_file())
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        write_text(folder / path.name, path.read_text().replace(PLACEHOLDER, name))
    return [path.name for path in paths]
