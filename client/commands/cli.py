"""The command ``fedn-partial``."""

from __future__ import annotations

import os

import click

import fedn_partial
from fedn_partial.client.commands import (
    client,
    data,
    experiments,
    init,
    network,
    package,
    profiling,
    report,
    run,
    seed,
    session,
)
from fedn_partial.client.commands.common import Group

# Commands import what they need when they run, so that --help is fast.

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's notes about the processor


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(fedn_partial.__version__, prog_name="fedn-partial")
def main():
    """Federated learning on edge devices over FEDn, with a few layers trained per device and round.

    FEDn's address comes from options, else environment variables, else the keys api_url, api_port, token, ca, insecure
    in ./fedn-partial.yaml or ~/.config/fedn-partial.yaml, else http://localhost:8092.
    """


for command in (
    init.init_command,
    run.run_command,
    run.simulate_command,
    experiments.experiment_command,
    experiments.results_command,
    profiling.profile_command,
    profiling.plan_command,
    report.report_command,
    package.package,
    seed.seed,
    session.session,
    data.data,
    client.client,
    client.doctor_command,
    network.network,
):
    main.add_command(command)
