"""The command group data."""

from __future__ import annotations

from pathlib import Path

import click

from fedn_partial.client.commands.common import command, with_option


@click.group()
def data():
    """Prepare data sets."""


@command(data, "prepare", "fedn-partial data prepare casa --source csh --clients 10 --partition natural --out shards")
@click.argument("name")
@click.option(
    "--source",
    metavar="DIR|download",
    default="download",
    show_default=True,
    help="Folder with the official files, or download them (once; they stay in ~/.cache/fedn-partial).",
)
@click.option("--clients", type=click.IntRange(min=1), required=True, help="How many shards.")
@click.option(
    "--partition",
    default="iid",
    show_default=True,
    help="iid: equal parts at random; dirichlet:0.3: label skew, the more the smaller the number; natural: by home.",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of all that is drawn.")
@click.option("--out", type=Path, required=True, help="Folder to make, with a shard for each client.")
@with_option
def data_prepare(name, source, clients, partition, seed, out, custom):
    """Deal the data set NAME (cifar10, imdb, casa, digits, or my_module:my_reader) to clients, a shard each.

    The key 'data' in a client.yaml names one of the folders. The same seed makes the same shards everywhere.
    """
    from fedn_partial.client.data.prepare import prepare
    from fedn_partial.custom import modules
    from fedn_partial.settings.case import Data

    modules.use(custom)
    settings = Data(name=name, clients=clients, partition=partition)
    origin, shards = prepare(settings, seed, None if source == "download" else Path(source), out)
    click.echo(f"{origin}\n\n{'shard':12} {'train':>9} {'test':>9}  training examples by class")
    for folder, train, test, by_class in shards:
        click.echo(f"{folder.name:12} {train:9,} {test:9,}  {' '.join(map(str, by_class))}")
    click.echo(f"\n{len(shards)} shards in {out}; 'data:' in a client.yaml names one of them")
