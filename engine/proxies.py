"""Addresses of servers, and the proxies that the environment names: they stand before servers elsewhere, never before
this machine's own.
"""

import ipaddress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from engine.errors import OptionError


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only. A name other than localhost is taken for not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str) -> None:
    """Raise OptionError unless a server can be asked at this address."""
    try:
        parts, _ = urlsplit(url), httpx.URL(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        fine = False
    if "@" in url:  # not repeated: it may hold a password
        raise OptionError(
            "The engine's url holds a log-in, which would stand in messages. Leave it out; a key belongs into "
            "SIFTLINE_ENGINE_KEY."
        )
    if not fine:
        raise OptionError(f"The engine's url is '{url}'; it must look like http://host:8180 or https://host/path.")


def client_for(url: str, headers: dict[str, str], timeout: httpx.Timeout) -> httpx.Client:
    """An HTTP client for one server. A proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot reach loopback addresses,
    so those are asked directly; certificates named by SSL_CERT_FILE hold for both.

    Raises:
        OptionError: the proxy that the environment names cannot be used.
    """
    own = is_loopback(urlsplit(url).hostname or "")
    try:
        return httpx.Client(
            base_url=url, headers=headers, timeout=timeout, trust_env=not own, verify=httpx.create_ssl_context()
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:  # httpx reads all proxies, also those it needs not
        # What is taken for a wrong port is the beginning of a password that holds a slash.
        why = "it is no address" if isinstance(error, httpx.InvalidURL) else error
        raise OptionError(
            f"The proxy that the environment names cannot be used ({why}). Give HTTP_PROXY, HTTPS_PROXY and "
            "ALL_PROXY an address that begins with http://, or unset them."
        ) from error


def proxy_hint(url: str) -> str:
    """A sentence on the proxy that stands before a server; "" where none does."""
    parts = urlsplit(url)
    host, proxies = parts.hostname or "", getproxies()
    if is_loopback(host) or proxy_bypass(host) or not (parts.scheme in proxies or "all" in proxies):
        return ""
    return f" Requests go by the proxy that the environment names; if they should not, add {host} to NO_PROXY."
