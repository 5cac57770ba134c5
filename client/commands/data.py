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
    help="Folder with the official files; download: into the cache in ~/.cache/fedn-partial.",
)
@click.option("--clients", type=click.IntRange(min=1), required=True, help="Number of shards.")
@click.option(
    "--partition",
    default="iid",
    show_default=True,
    help="iid: equal parts at random; dirichlet:ALPHA: label skew, stronger for smaller ALPHA; natural: by owner.",
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the partition.")
@click.option("--out", type=Path, required=True, help="New folder for the shards.")
@with_option
def data_prepare(name, source, clients, partition, seed, out, custom):
    """Partition the data set NAME (cifar10, imdb, casa, digits, or my_module:my_reader) into one shard per client.

    Set 'data:' in a client.yaml to the folder of its shard. A seed gives the same shards on every machine.
    """
    from fedn_partial.client.data.prepare import prepare
    from fedn_partial.client.tables import text_table
    from fedn_partial.custom import modules
    from fedn_partial.settings.case import Data

    modules.use(custom)
    settings = Data(name=name, clients=clients, partition=partition)
    origin, shards = prepare(settings, seed, None if source == "download" else Path(source), out)
    rows = [
        (folder.name, " ".join(map(str, by_class)), f"{train:,}", f"{test:,}")
        for folder, train, test, by_class in shards
    ]
    table = text_table(("shard", "training examples by class", "train", "test"), rows, left=2)
    click.echo(f"{origin}\n\n{table}\n\n{len(shards)} shards in {out}; set 'data:' in each client.yaml to one of them")
