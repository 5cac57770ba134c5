"""Errors in custom modules, with file, line and reason instead of a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedn_partial.errors import FednPartialError


class UserCodeError(FednPartialError):
    """An error in a custom module; the message begins with file and line."""

    ag_pass_through = True  # while TensorFlow traces a function: it raises other errors anew, with another message


@contextmanager
def user_code(folder: Path, called=None) -> Iterator[None]:
    """Turn an exception raised by a module in `folder` into a UserCodeError.

    Parameters
    ----------
    called : the function or class in `folder` that is called, if any. An exception outside its lines then comes from
        the call itself, such as a wrong signature.
    """
    try:
        yield
    except FednPartialError:
        raise
    except (Exception, SystemExit) as error:
        location = _location(error, folder) or (called and at(called))
        if location is None:
            raise
        text = error.msg if isinstance(error, SyntaxError) else error
        raise UserCodeError(f"{location}: {type(error).__name__}: {text}") from error


def at(function_or_class) -> str:
    """Return file and line of a function or class, for error messages."""
    import inspect

    return f"{inspect.getsourcefile(function_or_class)}, line {inspect.getsourcelines(function_or_class)[1]}"


def _location(error: BaseException, folder: Path) -> str | None:
    """Return file and line of the innermost code in `folder` that the exception passed through, or None."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve().parent == folder:
        return f"{error.filename}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).resolve().parent == folder:
            return f"{frame.filename}, line {frame.lineno}"
    return None
