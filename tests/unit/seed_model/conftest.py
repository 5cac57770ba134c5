from server_fixtures import start  # noqa: F401
