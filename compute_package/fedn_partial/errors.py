"""The base of this package's errors."""


class FednPartialError(ValueError):
    """An error that its message explains: what is wrong, and what to do. Shown without a traceback."""
