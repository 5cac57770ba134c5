"""Checks of the connection to FEDn: its controller, compute package and combiners. No client is registered."""

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

CONNECT_TIMEOUT = 5  # seconds
CLOCK_TOLERANCE = 60  # seconds
EXPIRY_WARNING = 14  # days

# OpenSSL's verification errors, and what to do about them on the device.
CERTIFICATE_ADVICE = {
    9: "check this device's clock, see above",
    10: "renew it on the server, if this device's clock is correct",
    18: "name its file with 'ca:' in client.yaml or with --ca",
    19: "name the authority's file with 'ca:' in client.yaml or with --ca",
    20: "name the authority's file with 'ca:' in client.yaml or with --ca",
    62: "use the name in the certificate as api_url",
    64: "use the address in the certificate as api_url",
}


def examine(connection: Connection, file: ClientFile) -> Iterator[Check]:
    """Yield the checks from name resolution to the combiners; a step that needs a failed one is left out.

    Parameters
    ----------
    connection : to the controller.
    file : this device's client.yaml.
    """
    url = connection.base_url
    host, port = urlsplit(url).hostname, urlsplit(url).port or (443 if url.startswith("https") else 80)
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if proxy:  # which resolves the name and opens the port
        yield Check("server", NOT_CHECKED, f"{url} is reached through the proxy {urlsplit(proxy).hostname}")
    else:
        server = reachable("server", host, port, "check api_url (FEDn's default port is 8092) and that FEDn runs")
        yield server
        if server.state == PROBLEM:
            return
    yield clock(url)
    if not proxy:
        tls = certificate(connection, host, port)
        yield tls
        if tls.state == PROBLEM:
            return
    try:
        access = controller(Api(connection))
        yield access
        if access.state != PROBLEM:
            yield package(Api(connection), file.package_checksum)
            yield combiners(Api(connection), file)
    except FednPartialError as error:
        yield Check("controller", PROBLEM, str(error))


def reachable(name: str, host: str, port: int, advice: str) -> Check:
    """Check that `host` accepts connections on `port`; `advice` is shown if it refuses them."""
    target = f"{host} port {port}"
    try:
        with socket.create_connection((host, port), timeout=CONNECT_TIMEOUT) as peer:
            address = peer.getpeername()[0]
            return Check(name, OK, f"{target} answers" if address == host else f"{target} answers, at {address}")
    except socket.gaierror as error:
        text = f"the name {host!r} cannot be resolved ({error.strerror}); check the name and this device's name server"
    except TimeoutError:
        text = f"{target} did not answer within {CONNECT_TIMEOUT} s; open this port in the firewalls in between"
    except (OSError, OverflowError) as error:
        text = f"{target} cannot be reached ({getattr(error, 'strerror', None) or error}); {advice}"
    return Check(name, PROBLEM, text)


def clock(url: str) -> Check:
    """Compare this device's clock with the server's: tokens and certificates are valid for a limited time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the certificate is checked later; no secret is sent here
        before = time.time()
        try:
            response = requests.head(url, timeout=CONNECT_TIMEOUT, allow_redirects=False, verify=False)
            server_time = email.utils.parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (requests.RequestException, LookupError, TypeError, ValueError):
            return Check("clock", NOT_CHECKED, "the server does not report its time")
    offset = round((before + time.time()) / 2 - server_time)
    if abs(offset) <= CLOCK_TOLERANCE:
        return Check("clock", OK, f"within {abs(offset) + 1} s of the server's")
    text = f"{abs(offset):,} s {'ahead of' if offset > 0 else 'behind'} the server's, so that TLS and tokens fail"
    return Check("clock", PROBLEM, f"{text}; as root: timedatectl set-ntp true, or set it with 'date'")


def certificate(connection: Connection, host: str, port: int) -> Check:
    """Check the server's TLS certificate as FEDn's client does."""
    if not connection.base_url.startswith("https"):
        if connection.token and host not in ("localhost", "127.0.0.1", "::1"):
            return Check("certificate", WARNING, "no TLS: the token is sent unencrypted; use https://")
        return Check("certificate", NOT_CHECKED, "none with http://")
    if connection.insecure:
        return Check("certificate", WARNING, "not checked ('insecure'): a machine in between can read the token")
    authority = connection.ca or os.environ.get("REQUESTS_CA_BUNDLE") or requests.certs.where()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(**{"capath" if os.path.isdir(authority) else "cafile": authority})
    except (OSError, ssl.SSLError) as error:
        return Check("certificate", PROBLEM, f"authority {authority} cannot be read ({error}); 'ca:' takes a PEM file")
    try:
        with (
            socket.create_connection((host, port), timeout=CONNECT_TIMEOUT) as plain,
            context.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            expires = ssl.cert_time_to_seconds(encrypted.getpeercert()["notAfter"])
    except ssl.SSLCertVerificationError as error:
        advice = CERTIFICATE_ADVICE.get(error.verify_code, "ask the operator of the server")
        return Check("certificate", PROBLEM, f"{error.verify_message}; {advice}")
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        return Check("certificate", PROBLEM, f"no TLS at {host} port {port} ({reason}); try http://")
    days = (expires - time.time()) / 86400
    text = f"valid for {host}, expires in {days:.0f} days"
    if days < EXPIRY_WARNING:
        return Check("certificate", WARNING, f"{text}; renew it on the server")
    return Check("certificate", OK, text)


def controller(api: Api) -> Check:
    """Check the token by requesting the compute package's checksum, which a client's token allows."""
    url, token = api.connection.base_url, api.connection.token
    response = api.response("packages/checksum")
    if response.status_code in (401, 403):
        reason = f"does not accept the token ({error_message(response)})" if token else "requires a token"
        advice = "put a client's token into client.yaml ('token:') or FEDN_AUTH_TOKEN"
        return Check("controller", PROBLEM, f"{url} {reason}; {advice}")
    try:
        response.json()["checksum"]
    except (LookupError, TypeError, ValueError):
        text = f"{url} answers ({response.status_code}), but is not a FEDn controller; check api_url"
        return Check("controller", PROBLEM, text)
    return Check("controller", OK, f"{url}, {'with the token' if token else 'without a token'}")


def package(api: Api, checksum: str | None) -> Check:
    """Download FEDn's active compute package and check that this device can run it."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "package.tgz"
        try:
            if api.active_package() is None:
                return Check("compute package", WARNING, "FEDn has none yet; the client will wait for one")
            name = api.download_package(archive)
            try:
                package_archive.check_checksum(archive, checksum)
            except PackageError as error:
                return Check("compute package", PROBLEM, str(error))
            active = package_archive.unpack(archive, Path(folder) / "package")
            package_archive.check_runs(active)
        except ApiError as error:
            return Check("compute package", WARNING, f"cannot be downloaded: {error}")
        except PackageError as error:
            text = f"cannot be run: {error}; the operator must upload another one"
            return Check("compute package", PROBLEM, text)
        text = f"{name}, {archive.stat().st_size:,} bytes"
        if not active.ours:
            text = f"{text}, is not built by fedn-partial; this device would run it as FEDn's own client does"
            return Check("compute package", WARNING, text)
        return Check("compute package", OK, f"{text}, runs on this device")


def combiners(api: Api, file: ClientFile) -> Check:
    """Check the ports that FEDn may assign to this device, as ``fedn_client.Transport`` uses them."""
    preferred = file.preferred_combiner
    if file.combiner and file.combiner_port:
        addresses = [(file.combiner, file.combiner_port)]
    else:
        response = api.response("combiners/")
        if response.status_code in (401, 403):
            text = "FEDn lists its combiners for an operator's token only; open their port (12080; FEDn Studio: 443)"
            return Check("combiner", NOT_CHECKED, f"{text} for this device")
        try:
            combiners = [item for item in response.json()["result"] if preferred in (None, item["name"])]
            addresses = [
                (item["fqdn"], 443) if item.get("fqdn") else (item["address"], item["port"]) for item in combiners
            ]
        except (LookupError, TypeError, ValueError):
            return Check("combiner", PROBLEM, f"FEDn does not list its combiners ({response.status_code}); see its log")
    if not addresses:
        named = f" {preferred!r} ('preferred_combiner')" if preferred else ""
        return Check("combiner", PROBLEM, f"FEDn has no combiner{named}; the operator must start it")
    advice = "open this port for devices, or give the combiner a 'host' that they can reach"
    checks = [reachable("combiner", str(host), port, advice) for host, port in addresses]
    problems = [check for check in checks if check.state == PROBLEM]
    return Check("combiner", PROBLEM if problems else OK, "; ".join(check.text for check in problems or checks))
