"""Commands that measure and predict the cost of training: profile, plan."""

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
@click.option("--flavours", required=True, help="Machines of configs/flavours.yaml, separated by commas.")
@click.option("--layers", required=True, help="Numbers of layers, separated by commas.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Rounds for each flavour and number of layers.",
)
@click.option(
    "--examples", type=click.IntRange(min=1), default=640, show_default=True, help="Number of random training examples."
)
@click.option("--data", type=Path, help="Folder of a shard to train on, instead of random data.")
@click.option("--image", default="fedn-partial", show_default=True, help="Docker image, built from client/Dockerfile.")
@with_option
@runs_option
@json_option
def profile_command(config, flavours, layers, rounds, examples, data, image, custom, runs, as_json):
    """Profile training rounds on container flavours (Tables 4 and 5 of the paper).

    Containers left behind by a killed profile are removed first.
    """
    from fedn_partial.client.profiling.flavours import pick
    from fedn_partial.settings.case import load_case

    case = load_case(config, custom)
    session = dataclasses.replace(case.session, rounds=rounds, min_clients=1)
    case = dataclasses.replace(case, session=session, data=None)
    numbers = parse_numbers(layers)
    fitting, refused = pick([name.strip() for name in flavours.split(",")])
    for name, reason in refused.items():
        click.echo(f"{name} is skipped: {reason}", err=True)
    if not fitting:
        raise FednPartialError("none of these flavours fits this machine; see configs/flavours.yaml")
    from fedn_partial.client.profiling import containers, profile
    from fedn_partial.seed_model.case_checks import check_data

    profile.check_layers(case, numbers)
    shard = profile.named_shard(data) if data else profile.random_shard(case, examples)
    check_data(case, [shard])
    setup = profile.Setup(containers.connect(image), image, fitting, refused, numbers, shard)
    with events(as_json) as on_event:
        try:
            path = profile.run_profile(case, setup, runs, on_event)
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; the containers are stopped, completed cells are kept") from None
        click.echo(f"\n{profile.cost_table(path)}\n")
        click.echo(f"profile: {path}; write its report with: {shell_words('report', path)}")
        on_event({"event": "end", "folder": str(path)})


@command(click, "plan", "fedn-partial plan configs/cifar10-vgg16.yaml --memory 512MB")
@click.argument("config", type=Path)
@click.option("--memory", required=True, help="Memory for FEDn's client and training: 512MB, 1.5GB, 400MiB.")
@with_option
@json_option
def plan_command(config, memory, custom, as_json):
    """Predict what a device with the given memory can train."""
    from fedn_partial.settings.case import load_case

    case = load_case(config, custom)
    from fedn_partial.client.profiling.plan import make_plan, parse_bytes
    from fedn_partial.client.tables import text_table

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
    headings = ("layers", "memory MB: lowest", "mean", "highest", "upload MB", "operations", "fits")
    rows = [
        (
            *(str(row.layers), *(f"{memory_mb:.0f}" for memory_mb in row.memory_mb)),
            *(f"{row.upload_mb:.2f}", f"{row.operations:.0%}", f"{row.fits:.0%}"),
        )
        for row in plan.rows
    ]
    click.echo(text_table(headings, rows))
    if len(plan.never) == total:
        click.echo(f"\nNo layer fits into {memory}: the smallest needs {plan.rows[0].memory_mb[0]:.0f} MB.")
        return
    always = max((row.layers for row in plan.rows if row.fits == 1), default=0)
    fits = f"any {always} of the {total} layers fit" if always else "no number of layers fits in every selection"
    click.echo(f"\nWithin {memory} {fits}.")
    click.echo(f"The selector 'budget' would select {plan.budget_layers:.1f} layers a round on average.")
    if plan.never:
        click.echo(f"Layers that do not fit even alone, and are never trained: {', '.join(plan.never)}.")
