"""The command group package."""

from __future__ import annotations

from pathlib import Path

import click

from fedn_partial.client.commands.common import api_of, command, connects


@click.group()
def package():
    """Build and upload the compute package."""


@command(package, "build", "fedn-partial package build -o package.tar.bz2 --with my_project")
@click.option("-o", "--output", type=Path, default=Path("package.tar.bz2"), show_default=True)
@click.option(
    "--with", "custom", type=Path, metavar="FOLDER", help="Ship the custom modules (.py) of this folder to the devices."
)
def package_build(output, custom):
    """Write the compute package to a file."""
    from fedn_partial.custom.modules import read_folder
    from fedn_partial.seed_model.package import build_package

    modules = read_folder(custom) if custom else None
    names = build_package(output, modules)
    if modules:
        click.echo(f"custom modules: {', '.join(modules.names)}")
    click.echo(f"{output}: {len(names)} files, {output.stat().st_size:,} bytes")


@command(package, "upload", "fedn-partial package upload package.tar.bz2 --api-url https://fedn.example.org")
@click.argument("path", type=Path, default=Path("package.tar.bz2"))
@connects
def package_upload(path, **options):
    """Upload a compute package and make it FEDn's active one."""
    from fedn_partial.seed_model.package import upload_package

    click.echo(f"uploaded as {upload_package(api_of(options), path)}")
