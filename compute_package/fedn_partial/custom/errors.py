"""Errors in a user's own code: the file, the line and the reason instead of a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedn_partial.errors import FednPartialError


class UserCodeError(FednPartialError):
    """An error in a custom module; the message begins with file and line."""


@contextmanager
def user_code(folder: Path) -> Iterator[None]:
    """Turn an exception that a module in `folder` raised into a UserCodeError; others pass through."""
    try:
        yield
    except FednPartialError:
        raise
    except (Exception, SystemExit) as error:
        place = _place(error, folder)
        if place is None:
            raise
        file, line = place
        text = error.msg if isinstance(error, SyntaxError) else error
        raise UserCodeError(f"{file}, line {line}: {type(error).__name__}: {text}") from error


def at(function_or_class) -> str:
    """Return file and line of a function or class, for an error about it."""
    import inspect

    return f"{inspect.getsourcefile(function_or_class)}, line {inspect.getsourcelines(function_or_class)[1]}"


def _place(error: BaseException, folder: Path) -> tuple[str, int] | None:
    """Return file and line of the innermost code in `folder` that the exception passed through, or None."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve().parent == folder:
        return error.filename, error.lineno
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve().parent == folder:
            return frame.filename, frame.lineno
    return None
