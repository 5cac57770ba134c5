import pytest

pytest.register_assert_rewrite("server_oracles")

from server_functions.server_fixtures import normalised, plain, send, start  # noqa: E402, F401
