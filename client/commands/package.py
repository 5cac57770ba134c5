"""The command group package."""

from __future__ import annotations

from pathlib import Path

import click

from fedn_partial.client.commands.common import api_of, command, connects


@click.group()
def package():
    """Build and upload the compute package."""


@command(package, "build", "fedn-partial package build -o package.tgz")
@click.option("-o", "--output", type=Path, default=Path("package.tgz"), show_default=True)
def package_build(output):
    """Write the compute package to a file."""
    from fedn_partial.seed_model.package import build_package

    names = build_package(output)
    click.echo(f"{output}: {len(names)} files, {output.stat().st_size:,} bytes")


@command(package, "upload", "fedn-partial package upload package.tgz --api-url https://fedn.example.org")
@click.argument("path", type=Path, default=Path("package.tgz"))
@connects
def package_upload(path, **options):
    """Upload a compute package and make it FEDn's active one."""
    from fedn_partial.seed_model.package import upload_package

    click.echo(f"uploaded as {upload_package(api_of(options), path)}")
