"""Base classes of this package's errors."""


class FednPartialError(ValueError):
    """An error whose message states the problem and the remedy. Shown without a traceback."""


class DataError(FednPartialError):
    """Data that are missing, incomplete or inconsistent, or cannot be partitioned as configured."""


class ModelError(FednPartialError):
    """A model file that is damaged or of another session."""
