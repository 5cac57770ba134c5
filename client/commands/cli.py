"""The command ``fedn-partial``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
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


_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line; what people read goes to stderr.")
_runs = click.option(
    "--runs", type=Path, default=Path("runs"), show_default=True, help="Folder that the run's folder is made in."
)


@contextlib.contextmanager
def _telling(as_json: bool):
    """Yield a function that writes an event for a machine: as a line of JSON, or not at all."""
    if not as_json:
        yield lambda event: None
        return
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield lambda event: print(json.dumps(event), file=stdout, flush=True)


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
    "--source",
    type=Path,
    help="Folder with the official files of the case's data set.  [default: downloaded ones]",
    show_default=False,
)
@_runs
@_json
def run_command(config, source, runs, as_json):
    """Run a whole session on this machine: FEDn network, clients, rounds."""
    from fedn_partial.settings.case import load_case

    case = load_case(config)
    from fedn_partial.client.data import data_sets
    from fedn_partial.seed_model.case_checks import check_case, check_data, check_fleet

    check_fleet(case)
    check_case(case)
    origin, shards = data_sets.deal_case(case.data, case.seed, source)
    check_data(case, shards)
    from fedn_partial.client.fleet.local_run import network_was_started, run
    from fedn_partial.client.records.run_folder import RunFolder, new_folder

    folder = RunFolder(new_folder(runs, case.name), case)
    with _telling(as_json) as tell:
        try:
            final = run(case, folder, origin, shards, tell)
        except KeyboardInterrupt:
            raise click.ClickException(
                f"interrupted; everything is stopped, what there was is in {folder.path}"
            ) from None
        except FednPartialError:
            if not network_was_started(folder.path):
                shutil.rmtree(folder.path)
            raise
        _conclude(final, folder.rows, folder.path, tell)


@command(main, "simulate", "fedn-partial simulate configs/quickstart.yaml")
@click.argument("config", type=Path)
@click.option("--source", type=Path, help="Folder with the data set's official files.  [default: downloaded]")
@click.option("--data", type=Path, help="Folder with the clients' data, of 'data prepare', instead of the case's own.")
@click.option("--processes", type=click.IntRange(min=1), help="At once.  [default: one a processor]")
@click.option("--resume", type=Path, metavar="FOLDER", help="Go on with a run that was stopped.")
@_runs
@_json
def simulate_command(config, source, data, processes, resume, runs, as_json):
    """Run a session without FEDn, with simulated clients: same training, updates, merging, same report.

    The result does not depend on the number of processes, nor on whether it was stopped and resumed.
    """
    from fedn_partial.settings.case import load_case

    case = load_case(config)
    from fedn_partial.client.records.load import load_run
    from fedn_partial.client.records.run_folder import new_folder
    from fedn_partial.client.simulation import simulate
    from fedn_partial.client.simulation.workers import processors, workers

    if resume is not None and not (resume / "session.json").exists():
        raise FednPartialError(f"--resume: {resume} is not the folder of a run")
    folder = resume or new_folder(runs, case.name)
    with _telling(as_json) as tell, workers(processes or processors()) as pool:
        try:
            final = simulate(case, folder, source, pool, data, tell)
        except KeyboardInterrupt:
            if _remove_unstarted(folder):
                raise click.ClickException("interrupted before the first round; nothing is left") from None
            options = {"--source": source, "--data": data}
            given = [word for name, path in options.items() if path for word in (name, path)]
            again = _shell("simulate", config, *given, "--resume", folder)
            raise click.ClickException(f"interrupted; to go on from the last round: {again}") from None
        except FednPartialError:
            _remove_unstarted(folder)
            raise
        _conclude(final, load_run(folder).rows, folder, tell)


@command(main, "experiment", "fedn-partial experiment fig1 fig2b --small --source data")
@click.argument("names", nargs=-1, required=True)
@click.option("--small", is_flag=True, help="Fewer images, a narrower VGG16, fewer rounds: for two processors.")
@click.option(
    "--source", type=Path, help="Folder with the data sets' official files, or a folder of each.  [default: downloaded]"
)
@_runs
def experiment_command(names, small, source, runs):
    """Repeat figures and tables of the paper, or compare ways to choose and merge layers: NAMES, or all.

    What is in them: configs/experiments/. A run that several need is run once; what is done is kept.
    """
    try:
        from fedn_partial.client.experiments import definitions, document, tables
    except ModuleNotFoundError as error:
        raise FednPartialError(f"{error}; experiments need the operator's install: pip install '.[local]'") from None
    from fedn_partial.client.experiments import run as runner
    from fedn_partial.client.experiments.results import collect

    names = definitions.names() if "all" in names else names
    experiments = [definitions.load(name, small) for name in dict.fromkeys(names)]
    folder = runs / "experiments"
    planned = runner.plan(experiments)
    done = sum(runner.is_done(folder, digest) for digest in planned)
    click.echo(f"{len(planned)} runs, {done} of them done, in {folder}")
    if done < len(planned):
        from fedn_partial.client.simulation.workers import processors, workers

        with workers(processors()) as pool:
            try:
                runner.run_all(experiments, folder, source, pool)
            except KeyboardInterrupt:
                raise click.ClickException("interrupted; the same command goes on from the last round") from None
    results = collect(folder, [run for run, _ in planned.values()])
    for experiment in experiments:
        click.echo(f"\n{tables.table(experiment, results).text()}")
        written = document.write_one(experiment, results, folder)
        click.echo(f"written: {', '.join(map(str, written))}")


@command(main, "results", "fedn-partial results --docs docs")
@click.option("--docs", type=Path, default=Path("docs"), show_default=True, help="Folder of RESULTS.md.")
@_runs
def results_command(docs, runs):
    """Write RESULTS.md and its pictures, from the experiments that are done and from what is kept of earlier ones."""
    from fedn_partial.client.experiments import document

    if not docs.is_dir():
        raise FednPartialError(f"--docs: there is no folder {docs}; start this in the project's folder")
    missing = document.write(runs / "experiments", docs)
    click.echo("\n".join([*missing, f"written: {docs / 'RESULTS.md'}"]))


@command(main, "profile", "fedn-partial profile configs/cifar10-vgg16.yaml --flavours ssc.xsmall --layers 4,14")
@click.argument("config", type=Path)
@click.option("--flavours", required=True, help="Machines of configs/flavours.yaml, with commas between them.")
@click.option("--layers", required=True, help="Numbers of layers, with commas between them.")
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="For each of these numbers.")
@click.option(
    "--examples", type=click.IntRange(min=1), default=640, show_default=True, help="How many are made up to train on."
)
@click.option("--data", type=Path, help="Folder of a shard to train on, instead.")
@click.option("--image", default="fedn-partial", show_default=True, help="Docker image, of client/Dockerfile.")
@_runs
@_json
def profile_command(config, flavours, layers, rounds, examples, data, image, runs, as_json):
    """Measure what a round costs flavours of machines, in Docker containers; as the paper's Tables 4 and 5.

    A container that a killed profile left behind is removed by the next one.
    """
    from fedn_partial.client.profiling import flavours as known
    from fedn_partial.settings.case import load_case

    case = load_case(config)
    session = dataclasses.replace(case.session, rounds=rounds, min_clients=1)
    case = dataclasses.replace(case, session=session, data=None)
    numbers = _numbers(layers)
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
    with _telling(as_json) as tell:
        try:
            path = profile.run_profile(case, engine, image, playable, refused, numbers, shard, runs, tell)
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; all is stopped, the cells that were done are kept") from None
        click.echo(f"\n{profile.text_table(path)}\n")
        click.echo(f"the profile's folder: {path}; to make a page of it: {_shell('report', path)}")
        tell({"event": "end", "folder": str(path)})


@command(main, "plan", "fedn-partial plan configs/cifar10-vgg16.yaml --memory 512MB")
@click.argument("config", type=Path)
@click.option("--memory", required=True, help="What a device has for FEDn's client and training: 512MB, 1.5GB, 400MiB.")
@_json
def plan_command(config, memory, as_json):
    """Predict what a device with so much memory can train."""
    from fedn_partial.settings.case import load_case

    case = load_case(config)
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


@command(main, "report", "fedn-partial report runs/quickstart-20261121-083949 -o report.html")
@click.argument("folders", type=Path, nargs=-1)
@click.option("-o", "--output", type=Path, default=Path("report.html"), show_default=True)
@click.option(
    "--session",
    "sessions",
    multiple=True,
    help="Name (of several: the newest) or id of a session to collect from FEDn.",
)
@_runs
@click.option("--json", "as_json", is_flag=True, help="Print key figures and written files as JSON.")
@connects
def report_command(folders, output, sessions, runs, as_json, **options):
    """Write runs and profiles as one HTML page, and their figures as CSV files beside it.

    Several runs are laid over each other. With one of full training (selector: all) among them, the others are
    compared with it. With --session, what FEDn keeps of an older session becomes a run's folder first.
    """
    if not folders and not sessions:
        raise FednPartialError("name the folder of a run or a profile, such as runs/NAME, or a session with --session")
    try:
        from fedn_partial.client.report.page import write_report
    except ModuleNotFoundError as error:
        raise FednPartialError(f"{error}; a report needs the operator's install: pip install '.[local]'") from None
    folders = list(folders)
    if sessions:
        from fedn_partial.client.follow.collect import collect

        folders += [collect(_api(options), name, runs) for name in sessions]
    written = write_report(folders, output)
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
    from fedn_partial.settings.case import load_case

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
@_runs
@_json
@connects
def session_start(config, runs, as_json, **options):
    """Start a session from FEDn's newest model and follow it; the exit code is 0 if its last round made a model.

    Ctrl-C ends the following; the session goes on in FEDn.
    """
    from fedn_partial.settings.case import load_case

    case, api = load_case(config), _api(options)
    from fedn_partial.client.follow import progress
    from fedn_partial.client.follow.poller import Watcher
    from fedn_partial.client.records.run_folder import RunFolder, new_folder
    from fedn_partial.seed_model.server_state import release
    from fedn_partial.seed_model.session import start_session

    path = new_folder(runs, case.name)
    with _telling(as_json) as tell:
        click.echo("comparing FEDn's newest model with the case")
        try:
            session_id, table = start_session(api, case)
        except BaseException:
            path.rmdir()  # nothing has begun
            raise
        folder = RunFolder(path, dataclasses.replace(case, data=None))  # devices have data of their own
        click.echo(f"session {session_id}")
        tell({"event": "session", "session": session_id})
        try:
            final = progress.follow(Watcher(api, session_id), case, table, folder, tell=tell)
        except KeyboardInterrupt:
            raise click.ClickException(f"no longer following; session {session_id} goes on in FEDn") from None
        release(api, lambda line: click.echo(line, err=True))
        _conclude(final, folder.rows, folder.path, tell)


@main.group()
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
def data_prepare(name, source, clients, partition, seed, out):
    """Deal the data set NAME (cifar10, imdb, casa, digits) to clients, a shard each.

    The key 'data' in a client.yaml names one of the folders. The same seed makes the same shards everywhere.
    """
    from fedn_partial.client.data.prepare import prepare
    from fedn_partial.settings.case import Data

    settings = Data(name=name, clients=clients, partition=partition)
    origin, shards = prepare(settings, seed, None if source == "download" else Path(source), out)
    click.echo(f"{origin}\n\n{'shard':12} {'train':>9} {'test':>9}  training examples by class")
    for folder, train, test, by_class in shards:
        click.echo(f"{folder.name:12} {train:9,} {test:9,}  {' '.join(map(str, by_class))}")
    click.echo(f"\n{len(shards)} shards in {out}; 'data:' in a client.yaml names one of them")


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
    from fedn_partial.client.device.device_client import device_connection, run_client

    try:
        run_client(config, device_connection(config, options))
    except KeyboardInterrupt:
        click.echo("stopped", err=True)


@command(main, "doctor", "fedn-partial doctor --config client.yaml")
@click.option(
    "--config", type=Path, help="This device's file.  [default: client.yaml, if there is one]", show_default=False
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, when all is known.")
@connects
def doctor_command(config, as_json, **options):
    """Check this device before it joins; the exit code is 1 if something must be mended.

    Nothing is changed here or at FEDn: no client is registered.
    """
    from fedn_partial.client.doctor.check import PROBLEM
    from fedn_partial.client.doctor.doctor import examine

    checks = []
    for check in examine(config, options, say=lambda line: as_json or click.echo(line, err=True)):
        checks.append(check)
        if not as_json:
            click.echo(f"{check.state:8} {check.name:16} {check.text}")
    problems = [check.name for check in checks if check.state == PROBLEM]
    if as_json:
        click.echo(json.dumps({"ok": not problems, "checks": [vars(check) for check in checks]}, indent=1))
    else:
        click.echo(f"\nto be mended: {', '.join(problems)}" if problems else "\nnothing has to be mended")
    sys.exit(1 if problems else 0)


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
    from fedn_partial.client.network.network import Network

    local = Network(folder)
    local.up(host=listen)
    click.echo(f"FEDn is up at {local.url}; logs in {folder / 'logs'}")
    click.echo(f"to stop it: {_shell('network', 'down', '--folder', folder)}")


@command(network, "down", "fedn-partial network down")
@_folder
def network_down(folder):
    """Stop the network; its models stay."""
    from fedn_partial.client.network.network import Network

    Network(folder).down()
    click.echo("stopped")


@command(network, "status", "fedn-partial network status")
@_folder
def network_status(folder):
    """Show what of the network is running; the exit code is 0 if all of it is."""
    from fedn_partial.client.network.network import Network

    local = Network(folder)
    parts = local.status()
    for name, pid in parts.items():
        port = f", port {local.ports[name]}" if name in local.ports else ""
        click.echo(f"{name:10} {f'running, process {pid}{port}' if pid else 'not running'}")
    if None in parts.values():
        sys.exit(1)
    click.echo(f"controller at {local.url}")


def _connection(options: dict):
    from fedn_partial.client.fedn_api.api import connection

    return connection(**options)


def _api(options: dict):
    from fedn_partial.client.fedn_api.api import Api

    return Api(_connection(options))


def _shell(*words) -> str:
    """Return a command of this program as a shell takes it."""
    return shlex.join(["fedn-partial", *map(str, words)])


def _numbers(text: str) -> list[int]:
    """Return the numbers in "4,7,10" (raises FednPartialError)."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise FednPartialError(f"--layers: {text!r} is not like 4,7,10,14")
    return list(dict.fromkeys(map(int, words)))


def _remove_unstarted(folder: Path) -> bool:
    """Remove the folder of a run that has not begun; return whether it had not."""
    unstarted = not (folder / "session.json").exists()
    if unstarted:
        shutil.rmtree(folder, ignore_errors=True)
    return unstarted


def _conclude(final: dict, rows, folder: Path, tell) -> None:
    from fedn_partial.client.follow.progress import cost_table, size

    tell({"event": "end", **final, "folder": str(folder)})
    click.echo(f"\n{cost_table(rows)}")
    reached = "n/a" if final["accuracy"] is None else f"{final['accuracy']:.3f}"
    full = final["full_upload_bytes"]
    share = f" ({100 * final['upload_bytes'] / full:.0f} % of what full updates are)" if full else ""
    click.echo(f"\naccuracy of the global model on held-out examples: {reached}")
    click.echo(f"uploaded {size(final['upload_bytes'])}{share}, downloaded {size(final['download_bytes'])}")
    if final.get("validation_bytes"):  # which runs of an earlier version do not have
        click.echo(f"of that, {size(final['validation_bytes'])} by clients that were only asked to validate")
    if final["failed_rounds"]:
        click.echo(f"{final['failed_rounds']} of {final['rounds']} rounds failed")
    click.echo(f"the run's folder: {folder}; to make a page of it: {_shell('report', folder)}")
    if final["problem"]:
        click.echo(f"fedn-partial: the session did not succeed: {final['problem']}", err=True)
        sys.exit(1)
