"""The address of a FEDn controller, as people write it."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from fedn_partial.settings.schema import SettingsError

STRAY = re.compile(r"[\s\"'`<>\\^{|}\u00ab\u00bb\u2018-\u201f\u2039\u203a\u0000-\u001f\u007f\u00a0\u200b-\u200f\ufeff]")


def base_url(address: str, port: int | None = None) -> str:
    """Return `address` with protocol and port, without a slash at its end.

    Without a protocol it is https://, on this machine http://, as for FEDn's own client.

    Parameters
    ----------
    port : if it is not in the address.

    Raises
    ------
    SettingsError : `address` is none that FEDn's clients can use. A password in it is not shown.
    """
    text = address.strip()
    shown = re.sub(r"^([^:/@]*//)?.*@", r"\1***@", text) if "@" in text else text
    stray = STRAY.search(text)
    if stray:
        raise SettingsError(f"api_url is {shown!r}, with {stray[0]!r} in it; write it without quotes and spaces")
    if re.fullmatch(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", text):
        raise SettingsError(f"api_url is {shown!r}; write an IPv6 address in brackets, such as http://[{text}]:8092")
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, own_port = parts.hostname or "", parts.port
        host.encode("idna")
        if "[" in parts.netloc:
            ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError as error:  # UnicodeError is one
        raise SettingsError(f"api_url is {shown!r}, which is no address ({error})") from None
    _check(parts, host, own_port, shown)
    scheme = parts.scheme or ("http" if _is_local(host) else "https")
    name = f"[{host}]" if ":" in host else host
    if own_port and port and own_port != port:
        raise SettingsError(f"api_url is {shown!r}, but api_port {port}; give one port")
    number = own_port or port
    return f"{scheme.lower()}://{name}{f':{number}' if number else ''}{parts.path.rstrip('/')}"


def _check(parts: SplitResult, host: str, port: int | None, shown: str) -> None:
    if parts.username is not None or parts.password is not None:
        raise SettingsError(
            f"api_url is {shown!r}, with a user or password in it, which FEDn does not take; give a 'token' instead"
        )
    if parts.scheme.lower() not in ("", "http", "https"):
        raise SettingsError(f"api_url is {shown!r}; FEDn's controller is reached by http:// or https://")
    if not host or host in ("http", "https"):
        raise SettingsError(f"api_url is {shown!r}, which is no address; write it like https://fedn.example.org")
    if port == 0:
        raise SettingsError(f"api_url is {shown!r}, with port 0; FEDn's controller listens on 8092")
    if parts.query or parts.fragment:
        raise SettingsError(f"api_url is {shown!r}; leave out what follows the path")


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
