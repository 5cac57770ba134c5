"""The command group network."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fedn_partial.client.commands.common import command, shell_words


@click.group()
def network():
    """Run a FEDn network on this machine, without Docker."""


def _folder(function):
    return click.option(
        "--folder",
        type=Path,
        default=Path("fedn-network"),
        show_default=True,
        help="Folder of the network's state.",
    )(function)


@command(network, "up", "fedn-partial network up --listen 0.0.0.0")
@_folder
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="Address of controller and combiner; with 0.0.0.0 other machines can connect, without a password.  "
    "[default: 127.0.0.1, or the previous one]",
)
def network_up(folder, listen):
    """Start controller, combiner, hooks and object store; models of an earlier 'up' are kept."""
    from fedn_partial.client.network.network import Network

    local = Network(folder)
    local.up(host=listen)
    click.echo(f"FEDn is up at {local.url}; logs in {folder / 'logs'}")
    click.echo(f"stop it with: {shell_words('network', 'down', '--folder', folder)}")


@command(network, "down", "fedn-partial network down")
@_folder
def network_down(folder):
    """Stop the network; its models are kept."""
    from fedn_partial.client.network.network import Network

    network = Network(folder)
    if not network.exists():
        click.echo(f"{folder} has no network, nothing to stop")
        return
    network.down()
    click.echo("stopped")


@command(network, "status", "fedn-partial network status")
@_folder
def network_status(folder):
    """Show the network's processes; the exit code is 1 if one is not running."""
    from fedn_partial.client.network.network import Network

    local = Network(folder)
    pids = local.status()
    for name, pid in pids.items():
        port = f", port {local.ports[name]}" if name in local.ports else ""
        click.echo(f"{name:10} {f'running, process {pid}{port}' if pid else 'not running'}")
    if None in pids.values():
        sys.exit(1)
    click.echo(f"controller at {local.url}")
