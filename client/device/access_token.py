"""Renew this device's access token when it has expired."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from urllib.parse import urlsplit

import requests

from fedn_partial.client.fedn_api.api import Connection, without_scheme
from fedn_partial.errors import FednPartialError
from fedn_partial.log import log

# FEDn's own variables. REFRESH_PATH, beside the path of FEDn's login command, is the default of the first.
URI_VARIABLE = "FEDN_AUTH_REFRESH_TOKEN_URI"
TOKEN_VARIABLE = "FEDN_AUTH_REFRESH_TOKEN"
REFRESH_PATH = "/api/token/refresh/"


class Access:
    """Connection to FEDn's controller with a renewable token.

    Attributes
    ----------
    connection : the connection with the newest token.
    """

    def __init__(self, connection: Connection, read_tokens: Callable[[], tuple[str | None, str | None]]):
        """`read_tokens` : returns the token and the refresh token now in client.yaml."""
        self.connection = connection
        self._read_tokens = read_tokens
        self._file_token, self._refresh_token = read_tokens()

    def renew(self) -> bool:
        """Take a new token from client.yaml or the server; return False if there is none."""
        try:
            token, refresh_token = self._read_tokens()
        except FednPartialError as error:  # the file is being written
            log(str(error))
            return False
        if refresh_token:
            self._refresh_token = refresh_token
        if token != self._file_token:
            self._file_token = token
        else:
            token = self._request_token()
        token = without_scheme(token or "")
        if not token or token == self.connection.token:
            return False
        self.connection = dataclasses.replace(self.connection, token=token)
        return True

    def _request_token(self) -> str | None:
        refresh_token = self._refresh_token or os.environ.get(TOKEN_VARIABLE)
        if not refresh_token:
            return None
        parts = urlsplit(self.connection.base_url)
        uri = os.environ.get(URI_VARIABLE) or f"{parts.scheme}://{parts.netloc}{REFRESH_PATH}"
        try:
            response = requests.post(
                uri, json={"refresh": refresh_token}, timeout=(10, 30), verify=self.connection.verify
            )
            token = response.json()["access"] if response.ok else None
        except (requests.RequestException, ValueError, LookupError, TypeError) as error:
            log(f"refreshing the token at {uri} failed: {type(error).__name__}")
            return None
        log(f"token refreshed at {uri}" if token else f"{uri} refuses the refresh token ({response.status_code})")
        return str(token) if token else None
