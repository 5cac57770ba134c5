"""Client of a FEDn controller's REST interface, self-hosted or FEDn Studio.

FEDn's own APIClient does not check certificates, has no timeouts and does not take server functions as text.
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

READ_TIMEOUT = 30  # seconds for an answer without a file
SESSION_OVER = ("Finished", "Terminated")  # states in which FEDn does not continue a session
DEFAULT_URL = "http://localhost:8092"
CONFIG_FILES = (Path("fedn-partial.yaml"), Path("~/.config/fedn-partial.yaml"))


class ApiError(FednPartialError):
    """The controller cannot be reached, or answers with an error."""


class TokenError(ApiError):
    """The controller does not accept the token for this request."""


@dataclass(frozen=True)
class Connection:
    """Address and credentials of a FEDn controller; the keys of fedn-partial.yaml.

    Attributes
    ----------
    api_url : URL, such as http://localhost:8092 or https://fedn.example.org/project.
    api_port : port, used if the URL has none.
    token : access token, or None.
    ca : file with the certificate authority to trust, or None for the system's.
    insecure : whether to skip the check of the server's certificate.
    """

    api_url: str = DEFAULT_URL
    api_port: int | None = None
    token: str | None = field(default=None, repr=False)
    ca: str | None = None
    insecure: bool = False

    @property
    def verify(self) -> bool | str:
        """The argument `verify` of requests: this authority's file, True for the system's, False for no check."""
        return False if self.insecure else self.ca or True

    @property
    def base_url(self) -> str:
        """The URL with protocol and port, without a trailing slash (raises SettingsError if it is invalid)."""
        return base_url(self.api_url, self.api_port)


def connection(default_url: str | None = DEFAULT_URL, **options) -> Connection:
    """Return the connection: each key from `options`, else the environment, else a config file, else `default_url`.

    Options that are None or False count as not given. The variables are FEDN_PARTIAL_API_URL,
    FEDN_PARTIAL_API_PORT, FEDN_PARTIAL_CA and FEDN_AUTH_TOKEN; the file is ./fedn-partial.yaml or
    ~/.config/fedn-partial.yaml, with the keys of Connection.

    Raises
    ------
    SettingsError : the config file has an unknown key or an invalid value, or api_url is missing.
    """
    environment = {
        "api_url": os.environ.get("FEDN_PARTIAL_API_URL"),
        "api_port": os.environ.get("FEDN_PARTIAL_API_PORT"),
        "ca": os.environ.get("FEDN_PARTIAL_CA"),
        "token": os.environ.get("FEDN_AUTH_TOKEN"),
    }
    file = next((path.expanduser() for path in CONFIG_FILES if path.expanduser().exists()), None)
    values = read_yaml(file) if file else {}
    if "token" in values:  # YAML takes digits for a number
        values["token"] = read_yaml(file, as_text=True)["token"]
    for source in (environment, options):
        given = {key: value for key, value in source.items() if value not in (None, "", False)}
        if "api_url" in given and "api_port" not in given:
            values.pop("api_port", None)  # it belongs to the URL that is overridden
        values.update(given)
    if str(values.get("api_port", "")).isdigit():
        values["api_port"] = int(values["api_port"])
    if "token" in values:  # text from here on: the error about the type would show the token
        values["token"] = str(values["token"]).strip()
        if not values["token"].isascii() or not values["token"].isprintable() or not values["token"]:
            raise SettingsError("invalid token: it is empty or contains characters that no token has; copy it again")
        values["token"] = without_scheme(values["token"])
    if default_url and "api_url" not in values:
        values["api_url"] = default_url if "api_port" not in values else default_url.rpartition(":")[0]
    if values.get("api_url") is None:
        raise SettingsError("api_url is missing: set it in client.yaml, with --api-url or as FEDN_PARTIAL_API_URL")
    result = parse(Connection, values, str(file) if file else "connection")
    _ = result.base_url  # raises SettingsError if it is invalid
    return result


def without_scheme(token: str) -> str:
    """Return `token` without a leading "Bearer", which FEDn's client adds itself."""
    return (token.split() or [""])[-1]


class Api:
    """A FEDn controller's REST interface, version 1.

    Every method raises ApiError if the controller cannot be reached, and, except ``response``, if it answers with an
    error.
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
        """Return the JSON of a GET request; a list is {"count", "result"}, sorted by date if `order` is given.

        Parameters
        ----------
        limit, skip : length of the list, and how many items to skip.
        order : "asc", "desc" or None.
        """
        headers = {"X-Limit": str(limit)} if limit else {}
        if skip:
            headers["X-Skip"] = str(skip)
        if order:
            headers |= {"X-Sort-Key": "committed_at", "X-Sort-Order": order}
        return self._call("GET", path, params=params, headers=headers, timeout=(10, READ_TIMEOUT))

    def post(self, path: str, **kwargs):
        """Return the JSON of a POST request; `kwargs` are those of requests (json, files, data)."""
        return self._call("POST", path, **kwargs)

    def patch(self, path: str, **kwargs):
        """Return the JSON of a PATCH request."""
        return self._call("PATCH", path, **kwargs)

    def put(self, path: str, **kwargs):
        """Return the JSON of a PUT request."""
        return self._call("PUT", path, **kwargs)

    def download_model(self, model_id: str, path: str | Path) -> None:
        """Save a global model to `path`."""
        with write_atomically(path) as file:
            file.write(self._request("GET", f"models/{model_id}/download").content)

    def active_package(self) -> str | None:
        """Return the file name of FEDn's active compute package, which is new for each upload, or None.

        FEDn 0.33's `packages/checksum` does not serve for this: it looks in another folder than packages are stored in.
        """
        response = self._send("HEAD", "packages/download", timeout=(5, 10))
        if response.status_code == 404:
            return None
        return _file_name(self._checked("HEAD", response))

    def download_package(self, path: str | Path) -> str:
        """Save the active compute package to `path` and return its name, see ``active_package``."""
        response = self._request("GET", "packages/download", stream=True)
        with response, write_atomically(path) as file:
            try:
                for chunk in response.iter_content(1 << 16):
                    file.write(chunk)
            except requests.exceptions.RequestException as error:
                raise ApiError(f"{response.url}: the download was interrupted ({type(error).__name__})") from None
        return _file_name(response)

    def _call(self, method: str, path: str, **kwargs):
        response = self._request(method, path, **kwargs)
        try:
            return response.json()
        except ValueError:
            raise ApiError(
                f"{response.url} is not a FEDn controller: the answer is not JSON; check --api-url"
            ) from None

    def response(self, path: str) -> requests.Response:
        """Return the response to a GET request, whatever its status."""
        return self._send("GET", path, timeout=(10, READ_TIMEOUT))

    def _request(self, method: str, path: str, **kwargs) -> requests.Response:
        return self._checked(method, self._send(method, path, **kwargs))

    def _checked(self, method: str, response: requests.Response) -> requests.Response:
        if response.status_code in (401, 403):
            base = self.connection.base_url
            raise TokenError(f"{base} does not accept the token; set another with --token or FEDN_AUTH_TOKEN")
        if response.status_code >= 400:
            raise ApiError(f"{method} {response.url} failed with {response.status_code}: {error_message(response)}")
        return response

    def _send(self, method: str, path: str, timeout=(10, 300), **kwargs) -> requests.Response:
        base, verify = self.connection.base_url, self.connection.verify
        # Set with each request, as REQUESTS_CA_BUNDLE overrides what is set on the session.
        options = kwargs if verify is True else {**kwargs, "verify": verify}
        try:
            return self._session.request(method, f"{base}/api/v1/{path}", timeout=timeout, **options)
        except requests.exceptions.SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                raise ApiError(f"{base} answers without TLS; use http:// if that is intended") from None
            raise ApiError(
                f"the certificate of {base} is not trusted ({error}); name the authority's file with --ca"
            ) from None
        except requests.exceptions.RequestException as error:
            raise ApiError(
                f"no FEDn controller answers at {base} ({type(error).__name__}); check --api-url and that it runs."
            ) from None


def _file_name(response: requests.Response) -> str:
    header = email.message.Message()
    header["content-disposition"] = response.headers.get("Content-Disposition", "")
    name = header.get_filename()
    if not name:
        raise ApiError(f"{response.url} did not answer with a compute package; check --api-url")
    return name


def error_message(response: requests.Response) -> str:
    """Return the message of an error response."""
    try:
        return str(response.json().get("message", response.text))
    except (ValueError, AttributeError):
        return response.text[:200]


def read_date(text) -> datetime | None:
    """Return the date in `text`, as FEDn writes it, or None if it is invalid."""
    try:
        return parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
