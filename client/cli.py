"""The command ``fedn-partial``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

import fedn_partial
from fedn_partial.errors import FednPartialError

# What a command needs is imported when it runs, so that --help answers at once.

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's remarks on this processor help nobody here


class Group(click.Group):
    """A group whose commands end with a plain message, not a traceback, where the message says it all."""

    def invoke(self, context):
        try:
            return super().invoke(context)
        except FednPartialError as error:
            message = str(error)
        except OSError as error:
            message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        click.echo(f"fedn-partial: {message}", err=True)
        context.exit(2)


def connects(command):
    """Add the options of every command that talks to FEDn."""
    for option in (
        click.option("--insecure", is_flag=True, help="Do not check the server's TLS certificate."),
        click.option("--ca", metavar="FILE", help="Certificate authority to trust (also FEDN_PARTIAL_CA)."),
        click.option("--token", help="Access token (also FEDN_AUTH_TOKEN, which other users cannot see in ps)."),
        click.option("--api-port", type=int, help="Port, if it is not in the URL (also FEDN_PARTIAL_API_PORT)."),
        click.option("--api-url", help="URL of FEDn's controller; https:// for TLS (also FEDN_PARTIAL_API_URL)."),
    ):
        command = option(command)
    return command


def command(group, name: str, example: str, **kwargs):
    """Return a decorator like ``group.command`` whose help ends with an example."""
    return group.command(name, epilog=f"\b\nExample:\n  {example}", **kwargs)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fedn_partial.__version__, prog_name="fedn-partial")
def main():
    """Edge devices that learn together over FEDn, each training only a few layers a round.

    Where FEDn is: options, else environment variables, else the keys api_url, api_port, token, ca, insecure in
    ./fedn-partial.yaml or ~/.config/fedn-partial.yaml, else http://localhost:8092.
    """


@command(main, "run", "fedn-partial run configs/quickstart.yaml")
@click.argument("config", type=Path)
@click.option(
    "--runs", type=Path, default=Path("runs"), show_default=True, help="Folder that the run's folder is made in."
)
def run_command(config, runs):
    """Run a whole session on this machine: FEDn network, clients, rounds."""
    from fedn_partial.settings import load_case

    case = load_case(config)
    if case.data is None:
        raise FednPartialError(
            f"{config}: section 'data' is missing: which data set is dealt to the clients of a local run"
        )
    from fedn_partial.client.local_run import run
    from fedn_partial.client.runs import RunFolder

    folder = RunFolder(runs, case)
    try:
        final = run(case, folder)
    except KeyboardInterrupt:
        raise click.ClickException(f"interrupted; everything is stopped, what there was is in {folder.path}") from None
    _conclude(final, folder)


@command(main, "plan", "fedn-partial plan configs/cifar10-vgg16.yaml --memory 512MB")
@click.argument("config", type=Path)
@click.option("--memory", required=True, help="What a device has for FEDn's client and training: 512MB, 1.5GB, 400MiB.")
def plan_command(config, memory):
    """Predict what a device with so much memory can train."""
    from fedn_partial.settings import load_case

    case = load_case(config)
    from fedn_partial.client.plan import make_plan, parse_bytes

    size = parse_bytes(memory)
    plan = make_plan(case, size)
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


@command(main, "report", "fedn-partial report runs/quickstart-20261121-083949 -o report.html")
@click.argument("folders", type=Path, nargs=-1, required=True)
@click.option("-o", "--output", type=Path, default=Path("report.html"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print key figures and written files as JSON.")
def report_command(folders, output, as_json):
    """Write runs and profiles as one HTML page, and their figures as CSV files beside it.

    Several runs are laid over each other. With one of full training (selector: all) among them, the others are
    compared with it.
    """
    try:
        from fedn_partial.client.report.page import write_report
    except ModuleNotFoundError as error:
        raise FednPartialError(f"{error}; a report needs the operator's install: pip install '.[local]'") from None
    written = write_report(list(folders), output)
    if as_json:
        click.echo(json.dumps(written, indent=1))
        return
    click.echo("\n".join(written["result"]))
    click.echo(f"{output}: {output.stat().st_size / 1e3:.0f} kB; {len(written['csv'])} CSV files beside it")


@main.group()
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
    """Make a compute package FEDn's active one."""
    from fedn_partial.seed_model.package import upload_package

    click.echo(f"uploaded as {upload_package(_api(options), path)}")


@main.group()
def seed():
    """Build and upload the seed model."""


@command(seed, "build", "fedn-partial seed build configs/cifar10-vgg16.yaml -o seed.npz")
@click.argument("config", type=Path)
@click.option("-o", "--output", type=Path, default=Path("seed.npz"), show_default=True)
def seed_build(config, output):
    """Write a freshly initialised model to a file."""
    from fedn_partial.settings import load_case

    case = load_case(config)
    from fedn_partial.seed_model.seed import build_seed

    table = build_seed(case, output)
    parameters = sum(layer.parameters for layer in table)
    click.echo(f"{output}: {len(table)} layers, {parameters:,} parameters, {output.stat().st_size:,} bytes")


@command(seed, "upload", "fedn-partial seed upload seed.npz --api-url https://fedn.example.org")
@click.argument("path", type=Path, default=Path("seed.npz"))
@connects
def seed_upload(path, **options):
    """Make a model FEDn's newest one, which the next session starts from."""
    from fedn_partial.seed_model.seed import upload_seed

    click.echo(f"uploaded as {upload_seed(_api(options), path)}")


@main.group()
def session():
    """Start sessions."""


@command(session, "start", "fedn-partial session start configs/cifar10-vgg16.yaml --api-url https://fedn.example.org")
@click.argument("config", type=Path)
@click.option(
    "--runs", type=Path, default=Path("runs"), show_default=True, help="Folder that the run's folder is made in."
)
@connects
def session_start(config, runs, **options):
    """Start a session from FEDn's newest model and follow it; the exit code is 0 if its last round made a model.

    Ctrl-C ends the following; the session goes on in FEDn.
    """
    from fedn_partial.settings import load_case

    case, api = load_case(config), _api(options)
    from fedn_partial.client import progress
    from fedn_partial.client.runs import RunFolder
    from fedn_partial.client.watch import Watcher
    from fedn_partial.seed_model.session import start_session

    folder = RunFolder(runs, case)
    click.echo("comparing FEDn's newest model with the case")
    session_id, table = start_session(api, case)
    folder.know_layers(table)
    click.echo(f"session {session_id}")
    try:
        final = progress.follow(Watcher(api, session_id), case, len(table), folder)
    except KeyboardInterrupt:
        raise click.ClickException(f"no longer following; session {session_id} goes on in FEDn") from None
    _conclude(final, folder)


@main.group()
def client():
    """Run the client of a device."""


@command(client, "start", "fedn-partial client start --config client.yaml")
@click.option("--config", type=Path, default=Path("client.yaml"), show_default=True, help="This device's file.")
@connects
def client_start(config, **options):
    """Join FEDn and take part in every round until stopped. Keeps trying where the server is not there.

    The file is FEDn's own client.yaml (name, api_url, token, ...) with a section 'fedn_partial'. Options win over
    the file, the file over environment variables.
    """
    from fedn_partial.client.node import run_client
    from fedn_partial.settings import read_yaml

    raw = read_yaml(config)
    in_file = {key: raw.get(key) for key in ("api_url", "api_port", "token", "ca", "insecure")}
    in_file["api_url"] = in_file["api_url"] or raw.get("discover_host")  # its name in files that FEDn Studio makes
    given = {key: value for key, value in options.items() if value}
    try:
        run_client(config, _connection({**in_file, **given}))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@main.group()
def network():
    """Run a FEDn network on this machine, without Docker."""


def _folder(function):
    return click.option(
        "--folder",
        type=Path,
        default=Path("fedn-network"),
        show_default=True,
        help="Where the network's state is kept.",
    )(function)


@command(network, "up", "fedn-partial network up --listen 0.0.0.0")
@_folder
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="Address for controller and combiner; 0.0.0.0 lets devices in from outside, and FEDn asks them for no "
    "password.  [default: 127.0.0.1, or as before]",
)
def network_up(folder, listen):
    """Start controller, combiner, hooks and object store; a second 'up' finds the models of the first."""
    from fedn_partial.client.network import Network

    local = Network(folder)
    local.up(host=listen)
    click.echo(f"FEDn is up at {local.url}; logs in {folder / 'logs'}; stop it with 'fedn-partial network down'")


@command(network, "down", "fedn-partial network down")
@_folder
def network_down(folder):
    """Stop the network; its models stay."""
    from fedn_partial.client.network import Network

    Network(folder).down()
    click.echo("stopped")


@command(network, "status", "fedn-partial network status")
@_folder
def network_status(folder):
    """Show what of the network is running; the exit code is 0 if all of it is."""
    from fedn_partial.client.network import Network

    local = Network(folder)
    parts = local.status()
    for name, pid in parts.items():
        click.echo(f"{name:10} {f'running, process {pid}, port {local.ports[name]}' if pid else 'not running'}")
    if None in parts.values():
        sys.exit(1)
    click.echo(f"controller at {local.url}")


def _connection(options: dict):
    from fedn_partial.seed_model.api import connection

    return connection(**options)


def _api(options: dict):
    from fedn_partial.seed_model.api import Api

    return Api(_connection(options))


def _conclude(final: dict, folder) -> None:
    from fedn_partial.client.progress import size

    reached = "n/a" if final["accuracy"] is None else f"{final['accuracy']:.3f}"
    full = final["full_upload_bytes"]
    share = f" ({100 * final['upload_bytes'] / full:.0f} % of what full updates are)" if full else ""
    click.echo(f"\naccuracy of the global model on held-out examples: {reached}")
    click.echo(f"uploaded {size(final['upload_bytes'])}{share}, downloaded {size(final['download_bytes'])}")
    if final["failed_rounds"]:
        click.echo(f"{final['failed_rounds']} of {final['rounds']} rounds failed")
    click.echo(f"the run's folder: {folder.path}")
    if final["problem"]:
        click.echo(f"fedn-partial: the session did not succeed: {final['problem']}", err=True)
        sys.exit(1)
