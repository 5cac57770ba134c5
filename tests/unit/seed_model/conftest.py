from server_functions.server_fixtures import start  # noqa: F401
