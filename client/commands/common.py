"""Options and helpers shared by commands."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
from pathlib import Path

import click

from fedn_partial.errors import FednPartialError


class Group(click.Group):
    """Command group that prints expected errors as one message, without a traceback."""

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
    """Add the options of the connection to FEDn."""
    for option in (
        click.option("--insecure", is_flag=True, help="Do not check the server's TLS certificate."),
        click.option("--ca", metavar="FILE", help="Certificate authority to trust (also FEDN_PARTIAL_CA)."),
        click.option("--token", help="Access token (also FEDN_AUTH_TOKEN; other users can see options in ps)."),
        click.option("--api-port", type=int, help="Port, if the URL has none (also FEDN_PARTIAL_API_PORT)."),
        click.option("--api-url", help="URL of FEDn's controller; https:// for TLS (also FEDN_PARTIAL_API_URL)."),
    ):
        command = option(command)
    return command


with_option = click.option(
    "--with",
    "custom",
    type=Path,
    metavar="FOLDER",
    help="Folder of custom modules (.py), which names such as my_models:small_cnn refer to.  "
    "[default: the case's 'package: with:']",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line; other output goes to stderr."
)
runs_option = click.option(
    "--runs", type=Path, default=Path("runs"), show_default=True, help="Folder in which the run's folder is created."
)


@contextlib.contextmanager
def events(as_json: bool):
    """Yield a callback that prints events as lines of JSON, if `as_json`."""
    if not as_json:
        yield lambda event: None
        return
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield lambda event: print(json.dumps(event), file=stdout, flush=True)


def command(group, name: str, example: str, **kwargs):
    """Return a decorator like ``group.command`` whose help ends with an example."""
    return group.command(name, epilog=f"\b\nExample:\n  {example}", **kwargs)


def connection_of(options: dict):
    from fedn_partial.client.fedn_api.api import connection

    return connection(**options)


def api_of(options: dict):
    from fedn_partial.client.fedn_api.api import Api

    return Api(connection_of(options))


def shell_words(*words) -> str:
    """Return a fedn-partial command line, quoted for a shell."""
    return shlex.join(["fedn-partial", *map(str, words)])


def parse_numbers(text: str) -> list[int]:
    """Return the numbers of layers in "4,7,10" (raises FednPartialError)."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise FednPartialError(f"invalid --layers {text!r}: use numbers separated by commas, such as 4,7,10,14")
    return list(dict.fromkeys(map(int, words)))


def remove_run(folder: Path) -> None:
    """Remove the folder of a run, and its parent folder if it is empty then."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # other runs are in it
        folder.parent.rmdir()


def remove_unstarted(folder: Path) -> bool:
    """Remove the folder of a run that has not started; return whether it was removed."""
    unstarted = not (folder / "session.json").exists()
    if unstarted:
        remove_run(folder)
    return unstarted


def conclude(final: dict, rows, folder: Path, on_event) -> None:
    """Print the result of a session; exit with code 1 if it did not succeed."""
    from fedn_partial.client.follow.progress import cost_table, size

    on_event({"event": "end", **final, "folder": str(folder)})
    click.echo(f"\n{cost_table(rows)}")
    accuracy = "n/a" if final["accuracy"] is None else f"{final['accuracy']:.3f}"
    full = final["full_upload_bytes"]
    share = f" ({100 * final['upload_bytes'] / full:.0f} % of full updates)" if full else ""
    click.echo(f"\naccuracy of the global model on held-out examples: {accuracy}")
    click.echo(f"uploaded {size(final['upload_bytes'])}{share}, downloaded {size(final['download_bytes'])}")
    if final.get("validation_bytes"):  # missing in runs of earlier versions
        click.echo(f"of that, {size(final['validation_bytes'])} by clients that only validated")
    if final["failed_rounds"]:
        click.echo(f"{final['failed_rounds']} of {final['rounds']} rounds failed")
    click.echo(f"run: {folder}; write its report with: {shell_words('report', folder)}")
    if final["problem"]:
        click.echo(f"fedn-partial: the session did not succeed: {final['problem']}", err=True)
        sys.exit(1)
