"""The command group seed."""

from __future__ import annotations

from pathlib import Path

import click

from fedn_partial.client.commands.common import api_of, command, connects, with_option


@click.group()
def seed():
    """Build and upload the seed model."""


@command(seed, "build", "fedn-partial seed build configs/cifar10-vgg16.yaml -o seed.npz")
@click.argument("config", type=Path)
@click.option("-o", "--output", type=Path, default=Path("seed.npz"), show_default=True)
@with_option
def seed_build(config, output, custom):
    """Write an initialised model to a file."""
    from fedn_partial.settings.case import load_case

    case = load_case(config, custom)
    from fedn_partial.seed_model.seed import build_seed

    layers = build_seed(case, output)
    parameters = sum(layer.parameters for layer in layers)
    click.echo(f"{output}: {len(layers)} layers, {parameters:,} parameters, {output.stat().st_size:,} bytes")


@command(seed, "upload", "fedn-partial seed upload seed.npz --api-url https://fedn.example.org")
@click.argument("path", type=Path, default=Path("seed.npz"))
@connects
def seed_upload(path, **options):
    """Upload a model to FEDn; the next session starts from it."""
    from fedn_partial.seed_model.seed import upload_seed

    click.echo(f"uploaded as {upload_seed(api_of(options), path)}")
