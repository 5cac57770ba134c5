"""Parse the address of a FEDn controller."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from fedn_partial.settings.schema import SettingsError

STRAY = re.compile(r"[\s\"'`<>\\^{|}\u00ab\u00bb\u2018-\u201f\u2039\u203a\u0000-\u001f\u007f\u00a0\u200b-\u200f\ufeff]")


def base_url(address: str, port: int | None = None) -> str:
    """Return `address` as a URL with protocol and port, without a trailing slash.

    The default protocol is https://, for this machine http://, as in FEDn's own client.

    Parameters
    ----------
    address : a host name or URL.
    port : used if `address` has none.

    Raises
    ------
    SettingsError : FEDn's clients cannot use `address`. The message hides a password in it.
    """
    text = address.strip()
    shown = re.sub(r"^([^:/@]*//)?.*@", r"\1***@", text) if "@" in text else text
    stray = STRAY.search(text)
    if stray:
        raise SettingsError(f"invalid api_url {shown!r}: contains {stray[0]!r}; write it without quotes and spaces")
    if re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", text):
        raise SettingsError(f"invalid api_url {shown!r}: write an IPv6 address in brackets, as in http://[{text}]:8092")
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, own_port = parts.hostname or "", parts.port
        host.encode("idna")
        if "[" in parts.netloc:
            ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError as error:  # UnicodeError is one
        raise SettingsError(f"invalid api_url {shown!r}: {error}") from None
    _check(parts, host, own_port, shown)
    scheme = parts.scheme or ("http" if _is_local(host) else "https")
    name = f"[{host}]" if ":" in host else host
    if own_port and port and own_port != port:
        raise SettingsError(f"api_url {shown!r} and api_port {port} name different ports; give one of them")
    number = own_port or port
    return f"{scheme.lower()}://{name}{f':{number}' if number else ''}{parts.path.rstrip('/')}"


def _check(parts: SplitResult, host: str, port: int | None, shown: str) -> None:
    if parts.username is not None or parts.password is not None:
        raise SettingsError(
            f"invalid api_url {shown!r}: FEDn does not accept a user or password in it; set 'token' instead"
        )
    if parts.scheme.lower() not in ("", "http", "https"):
        raise SettingsError(f"invalid api_url {shown!r}: use http:// or https://")
    if not host or host in ("http", "https"):
        raise SettingsError(f"invalid api_url {shown!r}: no host; write it as in https://fedn.example.org")
    if port == 0:
        raise SettingsError(f"invalid api_url {shown!r}: port 0; FEDn's default port is 8092")
    if parts.query or parts.fragment:
        raise SettingsError(f"invalid api_url {shown!r}: remove the query or fragment after the path")


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
