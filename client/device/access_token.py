"""This device's access token, and where a valid one comes from when it has expired."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from urllib.parse import urlsplit

import requests

from fedn_partial.client.fedn_api.api import Connection, without_scheme
from fedn_partial.errors import FednPartialError
from fedn_partial.log import log

# FEDn's own variables. Without the first, the neighbour of the address at which its command line logs in.
URI_VARIABLE = "FEDN_AUTH_REFRESH_TOKEN_URI"
TOKEN_VARIABLE = "FEDN_AUTH_REFRESH_TOKEN"
REFRESH_PATH = "/api/token/refresh/"


class Access:
    """The way to FEDn's controller, with a token that can be renewed.

    Attributes
    ----------
    connection : with the newest token.
    """

    def __init__(self, connection: Connection, read_tokens: Callable[[], tuple[str | None, str | None]]):
        """`read_tokens` : returns the token and the refresh token that client.yaml has now."""
        self.connection = connection
        self._read_tokens = read_tokens
        self._in_file, self._refresh_token = read_tokens()

    def renew(self) -> bool:
        """Look for another token, in client.yaml and at the server; return whether there is one."""
        try:
            token, refresh_token = self._read_tokens()
        except FednPartialError as error:  # somebody is writing it
            log(str(error))
            return False
        if refresh_token:
            self._refresh_token = refresh_token
        if token != self._in_file:
            self._in_file = token
        else:
            token = self._refreshed()
        token = without_scheme(token or "")
        if not token or token == self.connection.token:
            return False
        self.connection = dataclasses.replace(self.connection, token=token)
        return True

    def _refreshed(self) -> str | None:
        refresh_token = self._refresh_token or os.environ.get(TOKEN_VARIABLE)
        if not refresh_token:
            return None
        parts = urlsplit(self.connection.base_url)
        uri = os.environ.get(URI_VARIABLE) or f"{parts.scheme}://{parts.netloc}{REFRESH_PATH}"
        try:
            answer = requests.post(
                uri, json={"refresh": refresh_token}, timeout=(10, 30), verify=self.connection.verify
            )
            token = answer.json()["access"] if answer.ok else None
        except (requests.RequestException, ValueError, LookupError, TypeError) as error:
            log(f"the token is not refreshed at {uri}: {type(error).__name__}")
            return None
        log(f"the token is refreshed at {uri}" if token else f"{uri} refuses the refresh token ({answer.status_code})")
        return str(token) if token else None
