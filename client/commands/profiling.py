"""Commands that say what training costs: profile, plan."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from fedn_partial.client.commands.common import (
    command,
    events,
    json_option,
    parse_numbers,
    runs_option,
    shell_words,
    with_option,
)
from fedn_partial.errors import FednPartialError


@command(click, "profile", "fedn-partial profile configs/cifar10-vgg16.yaml --flavours ssc.xsmall --layers 4,14")
@click.argument("config", type=Path)
@click.option("--flavours", required=True, help="Machines of configs/flavours.yaml, with commas between them.")
@click.option("--layers", required=True, help="Numbers of layers, with commas between them.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="For each of these numbers.")
@click.option(
    "--examples", type=click.IntRange(min=1), default=640, show_default=True, help="How many are made up to train on."
)
@click.option("--data", type=Path, help="Folder of a shard to train on, instead.")
@click.option("--image", default="fedn-partial", show_default=True, help="Docker image, of client/Dockerfile.")
@with_option
@runs_option
@json_option
def profile_command(config, flavours, layers, rounds, examples, data, image, custom, runs, as_json):
    """Measure what a round costs flavours of machines, in Docker containers; as the paper's Tables 4 and 5.

    A container that a killed profile left behind is removed by the next one.
    """
    from fedn_partial.client.profiling import flavours as known
    from fedn_partial.settings.case import load_case

    case = load_case(config, custom)
    session = dataclasses.replace(case.session, rounds=rounds, min_clients=1)
    case = dataclasses.replace(case, session=session, data=None)
    numbers = parse_numbers(layers)
    playable, refused = known.pick([name.strip() for name in flavours.split(",")])
    for name, why in refused.items():
        click.echo(f"{name} is left out: {why}", err=True)
    if not playable:
        raise FednPartialError("this machine can play none of these flavours")
    from fedn_partial.client.profiling import containers, profile
    from fedn_partial.seed_model.case_checks import check_data

    profile.check_layers(case, numbers)
    shard = profile.named_shard(data) if data else profile.made_up_shard(case, examples)
    check_data(case, [shard])
    engine = containers.connect(image)
    with events(as_json) as tell:
        try:
            path = profile.run_profile(case, engine, image, playable, refused, numbers, shard, runs, tell)
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; all is stopped, the cells that were done are kept") from None
        click.echo(f"\n{profile.text_table(path)}\n")
        click.echo(f"the profile's folder: {path}; to make a page of it: {shell_words('report', path)}")
        tell({"event": "end", "folder": str(path)})


@command(click, "plan", "fedn-partial plan configs/cifar10-vgg16.yaml --memory 512MB")
@click.argument("config", type=Path)
@click.option("--memory", required=True, help="What a device has for FEDn's client and training: 512MB, 1.5GB, 400MiB.")
@with_option
@json_option
def plan_command(config, memory, custom, as_json):
    """Predict what a device with so much memory can train."""
    from fedn_partial.settings.case import load_case

    case = load_case(config, custom)
    from fedn_partial.client.profiling.plan import make_plan, parse_bytes

    size = parse_bytes(memory)
    plan = make_plan(case, size)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(plan)))
        return
    total = plan.rows[-1].layers
    click.echo(
        f"{case.model['name']}, {total} layers, batches of {case.training.batch_size}, {case.training.optimizer}, "
        f"codec {case.codec}; FEDn's client and TensorFlow alone take {plan.base_mb:.0f} MB here\n"
    )
    click.echo("layers  memory MB: lowest  mean  highest  upload MB  operations  fits")
    for row in plan.rows:
        low, mean, high = row.memory_mb
        click.echo(
            f"{row.layers:6}  {low:17.0f} {mean:5.0f} {high:8.0f}  {row.upload_mb:9.2f}  {row.operations:10.0%}"
            f"  {row.fits:4.0%}"
        )
    if len(plan.never) == total:
        click.echo(f"\nNothing fits in {memory}: the cheapest layer needs {plan.rows[0].memory_mb[0]:.0f} MB.")
        return
    sure = max((row.layers for row in plan.rows if row.fits == 1), default=0)
    click.echo(
        f"\nIn {memory} any {sure} of the {total} layers fit." if sure else f"\nIn {memory} not every draw fits."
    )
    click.echo(f"With selector 'budget' a device would draw {plan.budget_layers:.1f} layers a round.")
    if plan.never:
        click.echo(f"Never trained there, as they do not fit even alone: {', '.join(plan.never)}.")
