"""Wait for a condition, with a deadline."""

from __future__ import annotations

from collections.abc import Callable

import tenacity


def wait_until(condition: Callable[[], object], timeout: float, pause: float = 0.5) -> bool:
    """Call `condition` every `pause` seconds until it is true; return whether it was within `timeout` seconds."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda result: not result),
        wait=tenacity.wait_fixed(pause),
        stop=tenacity.stop_before_delay(timeout),
        retry_error_callback=lambda state: False,
    )
    return bool(retrying(condition))
