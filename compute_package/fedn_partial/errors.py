"""The base of this package's errors."""


class FednPartialError(ValueError):
    """An error that its message explains: what is wrong, and what to do. Shown without a traceback."""


class DataError(FednPartialError):
    """Data that are missing, incomplete, inconsistent, or cannot be partitioned as asked."""


class ModelError(FednPartialError):
    """A model file that is damaged, or not of this session."""
