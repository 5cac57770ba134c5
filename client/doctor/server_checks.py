"""Whether a device can join FEDn: its controller, and its combiners, with which it trains. No client is registered."""

from __future__ import annotations

import email.utils
import os
import socket
import ssl
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests

from fedn_partial.client.doctor.check import NOT_CHECKED, OK, PROBLEM, WARNING, Check
from fedn_partial.client.fedn_api import package_archive
from fedn_partial.client.fedn_api.api import Api, ApiError, Connection, error_message
from fedn_partial.client.fedn_api.package_archive import PackageError
from fedn_partial.errors import FednPartialError
from fedn_partial.settings.client_file import ClientFile

CONNECT_PATIENCE = 5  # seconds
CLOCK_TOLERANCE = 60  # seconds
EXPIRY_WARNING = 14  # days

# What OpenSSL's numbers mean for whoever holds the device.
CERTIFICATE_ADVICE = {
    9: "or is this device's clock wrong? See above",
    10: "renew it on the server, if this device's clock is right",
    18: "name its file with 'ca:' in client.yaml, or with --ca",
    19: "name the authority's file with 'ca:' in client.yaml, or with --ca",
    20: "name the authority's file with 'ca:' in client.yaml, or with --ca",
    62: "write api_url with the name that the certificate is for",
    64: "write api_url with the address that the certificate is for",
}


def examine(connection: Connection, file: ClientFile) -> Iterator[Check]:
    """Check the way to FEDn, from the name to the combiners; what needs a step that failed is not tried.

    Parameters
    ----------
    file : this device's client.yaml.
    """
    url = connection.base_url
    host, port = urlsplit(url).hostname, urlsplit(url).port or (443 if url.startswith("https") else 80)
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if proxy:  # then the name need not be known here, nor the port open
        yield Check("server", NOT_CHECKED, f"{url} is reached through the proxy {urlsplit(proxy).hostname}")
    else:
        server = reachable("server", host, port, "is api_url right, and FEDn up? Its own controller's port is 8092")
        yield server
        if server.state == PROBLEM:
            return
    yield clock(url)
    if not proxy:
        trusted = certificate(connection, host, port)
        yield trusted
        if trusted.state == PROBLEM:
            return
    try:
        let_in = controller(Api(connection))
        yield let_in
        if let_in.state != PROBLEM:
            yield package(Api(connection), file.package_checksum)
            yield combiners(Api(connection), file)
    except FednPartialError as error:
        yield Check("controller", PROBLEM, str(error))


def reachable(name: str, host: str, port: int, otherwise: str) -> Check:
    """Open a connection to `host` and `port`, and close it; `otherwise` says what may be wrong if nothing listens."""
    where = f"{host} port {port}"
    try:
        with socket.create_connection((host, port), timeout=CONNECT_PATIENCE) as connected:
            address = connected.getpeername()[0]
            return Check(name, OK, f"{where} answers" if address == host else f"{where} answers, at {address}")
    except socket.gaierror as error:
        text = f"the name {host!r} is not known here ({error.strerror}); is it right, and is there a name server?"
    except TimeoutError:
        text = f"{where} does not answer within {CONNECT_PATIENCE} s; firewalls in between must let this port through"
    except (OSError, OverflowError) as error:
        text = f"{where} cannot be reached ({getattr(error, 'strerror', None) or error}); {otherwise}"
    return Check(name, PROBLEM, text)


def clock(url: str) -> Check:
    """Compare this device's clock with the server's: tokens and certificates are only good for a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the certificate is checked later; nothing secret is sent here
        before = time.time()
        try:
            answer = requests.head(url, timeout=CONNECT_PATIENCE, allow_redirects=False, verify=False)
            there = email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()
        except (requests.RequestException, LookupError, TypeError, ValueError):
            return Check("clock", NOT_CHECKED, "the server does not tell the time")
    off = round((before + time.time()) / 2 - there)
    if abs(off) <= CLOCK_TOLERANCE:
        return Check("clock", OK, "as the server's, to a few seconds" if abs(off) < 5 else f"{abs(off)} s off")
    text = f"{abs(off):,} s {'ahead of' if off > 0 else 'behind'} the server's; TLS and tokens fail with that: "
    return Check("clock", PROBLEM, text + "as root, 'timedatectl set-ntp true', or set it with 'date'")


def certificate(connection: Connection, host: str, port: int) -> Check:
    """Check the server's TLS certificate as FEDn's client will."""
    if not connection.base_url.startswith("https"):
        if connection.token and host not in ("localhost", "127.0.0.1", "::1"):
            return Check("certificate", WARNING, "no TLS: whoever is in between reads the token; use https://")
        return Check("certificate", NOT_CHECKED, "http:// has none")
    if connection.insecure:
        return Check("certificate", WARNING, "not checked ('insecure'): whoever is in between reads the token")
    trusted = connection.ca or os.environ.get("REQUESTS_CA_BUNDLE") or requests.certs.where()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(**{"capath" if os.path.isdir(trusted) else "cafile": trusted})
    except (OSError, ssl.SSLError) as error:
        return Check("certificate", PROBLEM, f"authority {trusted} cannot be read ({error}); 'ca:' names a PEM file")
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            expires = ssl.cert_time_to_seconds(encrypted.getpeercert()["notAfter"])
    except ssl.SSLCertVerificationError as error:
        advice = CERTIFICATE_ADVICE.get(error.verify_code, "ask who runs the server")
        return Check("certificate", PROBLEM, f"{error.verify_message}; {advice}")
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        return Check("certificate", PROBLEM, f"no TLS at {host} port {port} ({reason}); is it http:// there?")
    days = (expires - time.time()) / 86400
    told = f"good for {host}, {days:.0f} days more"
    if days < EXPIRY_WARNING:
        return Check("certificate", WARNING, f"{told}; let it be renewed on the server")
    return Check("certificate", OK, told)


def controller(api: Api) -> Check:
    """Ask what a device may ask for, the compute package's checksum: it tells whether the token is good."""
    url, token = api.connection.base_url, api.connection.token
    answer = api.answer("packages/checksum")
    if answer.status_code in (401, 403):
        way_out = "put one for a client into client.yaml ('token:') or FEDN_AUTH_TOKEN"
        told = f"does not accept the token ({error_message(answer)})" if token else "wants a token"
        return Check("controller", PROBLEM, f"{url} {told}; {way_out}")
    try:
        told = answer.json()
        told["checksum"]
    except (LookupError, TypeError, ValueError):
        text = f"{url} answers ({answer.status_code}), but not as FEDn's controller does; is api_url right?"
        return Check("controller", PROBLEM, text)
    return Check("controller", OK, f"{url}, {'with the token' if token else 'without a token'}")


def package(api: Api, checksum: str | None) -> Check:
    """Fetch the compute package that FEDn has active, and see whether this device could run it."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "package.tgz"
        try:
            if api.active_package() is None:
                text = "FEDn has no compute package yet; the client will wait for one"
                return Check("compute package", WARNING, text)
            name = api.download_package(archive)
            try:
                package_archive.check_checksum(archive, checksum)
            except PackageError as error:
                return Check("compute package", PROBLEM, str(error))
            active = package_archive.unpack(archive, Path(folder) / "package")
            package_archive.check_runs(active)
        except ApiError as error:
            return Check("compute package", WARNING, f"FEDn's active one cannot be fetched: {error}")
        except PackageError as error:
            text = f"FEDn's active one cannot be run: {error}; whoever runs the server must upload another"
            return Check("compute package", PROBLEM, text)
        told = f"{name}, {archive.stat().st_size:,} bytes"
        if not active.ours:
            text = (
                f"FEDn's active one ({told}) is not of fedn-partial: this device would run it as FEDn's own client does"
            )
            return Check("compute package", WARNING, text)
        return Check("compute package", OK, f"{told}, runs here")


def combiners(api: Api, file: ClientFile) -> Check:
    """Try the ports to which FEDn may send this device, as ``fedn_client.Transport`` will use them."""
    wanted = file.preferred_combiner
    if file.combiner and file.combiner_port:
        places = [(file.combiner, file.combiner_port)]
    else:
        answer = api.answer("combiners/")
        if answer.status_code in (401, 403):
            text = "FEDn names its combiners to an operator's token only; their port (12080; FEDn Studio's 443) must be"
            return Check("combiner", NOT_CHECKED, f"{text} open for this device")
        try:
            found = [one for one in answer.json()["result"] if wanted in (None, one["name"])]
            places = [(one["fqdn"], 443) if one.get("fqdn") else (one["address"], one["port"]) for one in found]
        except (LookupError, TypeError, ValueError):
            return Check("combiner", PROBLEM, f"FEDn does not name its combiners ({answer.status_code}); see its log")
    if not places:
        named = f" {wanted!r} ('preferred_combiner')" if wanted else ""
        return Check("combiner", PROBLEM, f"FEDn knows no combiner{named}; whoever runs the server must start it")
    otherwise = "devices must get through to this port: open it, or give the combiner a 'host' that they can reach"
    checks = [reachable("combiner", str(host), port, otherwise) for host, port in places]
    bad = [check for check in checks if check.state == PROBLEM]
    return Check("combiner", PROBLEM if bad else OK, "; ".join(check.text for check in bad or checks))
