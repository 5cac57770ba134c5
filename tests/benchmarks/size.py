"""The size of a benchmark: full, or, with --smallest, one that shows in seconds that the script still runs."""

import argparse


def options(description: str) -> argparse.ArgumentParser:
    """Return the parser of a benchmark's options: `--smallest`, for the tests."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--smallest", action="store_true", help="show that it runs; the figures mean nothing")
    return parser
