"""The REST interface of a FEDn controller, self-hosted or Studio: where it is, who we are, and plain errors.

FEDn's own APIClient neither checks certificates nor times out nor takes server functions as text.
"""

from __future__ import annotations

import email.message
import os
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests

from fedn_partial.client.fedn_api.address import base_url
from fedn_partial.errors import FednPartialError
from fedn_partial.runtime.atomic import write_atomically
from fedn_partial.settings.schema import SettingsError, parse
from fedn_partial.settings.yaml_file import read_yaml

READ_TIMEOUT = 30  # seconds that a controller may take to answer a question
SESSION_OVER = ("Finished", "Terminated")  # what FEDn calls a session that it does not go on with
DEFAULT_URL = "http://localhost:8092"
CONFIG_FILES = (Path("fedn-partial.yaml"), Path("~/.config/fedn-partial.yaml"))


class ApiError(FednPartialError):
    """The controller cannot be reached, or refuses."""


class TokenError(ApiError):
    """The controller does not accept the token, or not for what is asked."""


@dataclass(frozen=True)
class Connection:
    """Where a FEDn controller is and how to talk to it; the keys of fedn-partial.yaml.

    Attributes
    ----------
    api_url : such as http://localhost:8092 or https://fedn.example.org/project.
    api_port : if it is not in the URL.
    token : access token, or None.
    ca : file with the certificate authority to trust, or None for the system's.
    insecure : do not check the server's certificate.
    """

    api_url: str = DEFAULT_URL
    api_port: int | None = None
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    insecure: bool = False

    @property
    def verify(self) -> bool | str:
        """How requests checks the server's certificate: by this file, by the system's authorities, or not at all."""
        return False if self.insecure else self.ca or True

    @property
    def base_url(self) -> str:
        """The URL with protocol and port, without a slash at its end (raises SettingsError if it is none)."""
        return base_url(self.api_url, self.api_port)


def connection(default_url: str | None = DEFAULT_URL, **options) -> Connection:
    """Return where FEDn is: from `options`, else the environment, else a config file, else `default_url`.

    Options that are None or False count as not given. The variables are FEDN_PARTIAL_API_URL,
    FEDN_PARTIAL_API_PORT, FEDN_PARTIAL_CA and FEDN_AUTH_TOKEN; the file is ./fedn-partial.yaml or
    ~/.config/fedn-partial.yaml, with the keys of Connection.

    Raises
    ------
    SettingsError : the config file has an unknown key or a wrong value, or nothing says where FEDn is.
    """
    environment = {
        "api_url": os.environ.get("FEDN_PARTIAL_API_URL"),
        "api_port": os.environ.get("FEDN_PARTIAL_API_PORT"),
        "ca": os.environ.get("FEDN_PARTIAL_CA"),
        "token": os.environ.get("FEDN_AUTH_TOKEN"),
    }
    found = next((path.expanduser() for path in CONFIG_FILES if path.expanduser().exists()), None)
    values = read_yaml(found) if found else {}
    for source in (environment, options):
        given = {key: value for key, value in source.items() if value not in (None, "", False)}
        if "api_url" in given and "api_port" not in given:
            values.pop("api_port", None)  # it belongs to the URL that is given up
        values.update(given)
    if str(values.get("api_port", "")).isdigit():
        values["api_port"] = int(values["api_port"])
    if "token" in values:  # YAML takes digits for a number, and the message about that would show the token
        values["token"] = str(values["token"]).strip()
        if not values["token"].isascii() or not values["token"].isprintable() or not values["token"]:
            raise SettingsError("the token is empty, or holds characters that no token has; copy it anew")
        values["token"] = without_scheme(values["token"])
    if default_url and "api_url" not in values:
        values["api_url"] = default_url if "api_port" not in values else default_url.rpartition(":")[0]
    if values.get("api_url") is None:
        raise SettingsError(
            "api_url is missing: where is FEDn's controller? Give it in client.yaml, with --api-url or as "
            "FEDN_PARTIAL_API_URL"
        )
    made = parse(Connection, values, str(found) if found else "connection")
    _ = made.base_url  # which refuses what is no address
    return made


def without_scheme(token: str) -> str:
    """Return a token without the "Bearer" that it may have been copied with: FEDn's client puts that before it."""
    return (token.split() or [""])[-1]


class Api:
    """A FEDn controller's REST interface, version 1.

    Every call raises ApiError if the controller cannot be reached or answers with an error.
    """

    def __init__(self, target: Connection | str):
        self.connection = target if isinstance(target, Connection) else Connection(target)
        self._session = requests.Session()
        if self.connection.token:
            scheme = os.environ.get("FEDN_AUTH_SCHEME", "Bearer")
            self._session.headers["Authorization"] = f"{scheme} {self.connection.token}"

    def get(
        self, path: str, params: dict | None = None, limit: int | None = None, order: str | None = None, skip: int = 0
    ):
        """Return what GET answers: a list endpoint as {"count", "result"}, by date if `order` is "asc" or "desc"."""
        headers = {"X-Limit": str(limit)} if limit else {}
        if skip:
            headers["X-Skip"] = str(skip)
        if order:
            headers |= {"X-Sort-Key": "committed_at", "X-Sort-Order": order}
        return self._call("GET", path, params=params, headers=headers, timeout=(10, READ_TIMEOUT))

    def post(self, path: str, **kwargs):
        """Return what POST answers; `kwargs` are those of requests (json, files, data)."""
        return self._call("POST", path, **kwargs)

    def patch(self, path: str, **kwargs):
        """Return what PATCH answers."""
        return self._call("PATCH", path, **kwargs)

    def put(self, path: str, **kwargs):
        """Return what PUT answers."""
        return self._call("PUT", path, **kwargs)

    def download_model(self, model_id: str, path: str | Path) -> None:
        """Save a global model to `path`."""
        with write_atomically(path) as file:
            file.write(self._request("GET", f"models/{model_id}/download").content)

    def active_package(self) -> str | None:
        """Return the name under which FEDn stores its active compute package, None if there is none.

        Each upload gets a name of its own. (FEDn 0.33 computes `packages/checksum` of a file in another folder than
        the one it stores packages in, and finds none.)
        """
        response = self._send("HEAD", "packages/download", timeout=(5, 10))
        if response.status_code == 404:
            return None
        return _file_name(self._checked("HEAD", response))

    def download_package(self, path: str | Path) -> str:
        """Save the active compute package to `path` and return its name as ``active_package`` does."""
        response = self._request("GET", "packages/download", stream=True)
        with response, write_atomically(path) as file:
            try:
                for chunk in response.iter_content(1 << 16):
                    file.write(chunk)
            except requests.exceptions.RequestException as error:
                raise ApiError(f"{response.url} broke off ({type(error).__name__})") from None
        return _file_name(response)

    def _call(self, method: str, path: str, **kwargs):
        response = self._request(method, path, **kwargs)
        try:
            return response.json()
        except ValueError:
            raise ApiError(f"{response.url} answered, but not as a FEDn controller does; is the URL right?") from None

    def answer(self, path: str) -> requests.Response:
        """Return what GET answers, also if that is an error (raises ApiError if no controller answers)."""
        return self._send("GET", path, timeout=(10, READ_TIMEOUT))

    def _request(self, method: str, path: str, **kwargs) -> requests.Response:
        return self._checked(method, self._send(method, path, **kwargs))

    def _checked(self, method: str, response: requests.Response) -> requests.Response:
        if response.status_code in (401, 403):
            base = self.connection.base_url
            raise TokenError(f"{base} does not accept the token; give one with --token or FEDN_AUTH_TOKEN")
        if response.status_code >= 400:
            raise ApiError(f"{method} {response.url} failed with {response.status_code}: {error_message(response)}")
        return response

    def _send(self, method: str, path: str, timeout=(10, 300), **kwargs) -> requests.Response:
        base, verify = self.connection.base_url, self.connection.verify
        # With each request: REQUESTS_CA_BUNDLE wins over what a session of requests has.
        options = kwargs if verify is True else {**kwargs, "verify": verify}
        try:
            return self._session.request(method, f"{base}/api/v1/{path}", timeout=timeout, **options)
        except requests.exceptions.SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                raise ApiError(f"{base} answers without TLS; write http:// if that is right") from None
            raise ApiError(
                f"{base}: its certificate is not trusted ({error}); name the authority's file with --ca"
            ) from None
        except requests.exceptions.RequestException as error:
            raise ApiError(
                f"no FEDn controller answers at {base} ({type(error).__name__}); is it up, and --api-url right?"
            ) from None


def _file_name(response: requests.Response) -> str:
    header = email.message.Message()
    header["content-disposition"] = response.headers.get("Content-Disposition", "")
    name = header.get_filename()
    if not name:
        raise ApiError(f"{response.url} answered, but not with a compute package; is the URL right?")
    return name


def error_message(response: requests.Response) -> str:
    """Return what FEDn says of an error."""
    try:
        return str(response.json().get("message", response.text))
    except (ValueError, AttributeError):
        return response.text[:200]


def read_date(text) -> datetime | None:
    """Return the date that FEDn wrote, or None if it is none."""
    try:
        return parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
