"""Addresses of servers, and the proxies that the environment names: they stand before servers elsewhere, never before
this machine's own.
"""

import ipaddress
import os
import time
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from engine.errors import OptionError

LARGEST_ANSWER = 64 * 2**20
"""Bytes of an answer: 128 vectors of 65,536 numbers are 43 MiB of base64."""


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
    so those are asked directly; certificates named by SSL_CERT_FILE hold for both. An answer that is packed or larger
    than `LARGEST_ANSWER` raises httpx.DecodingError, and one whose body takes longer than the read timeout
    httpx.ReadTimeout.

    Raises:
        OptionError: the proxy or the SSL_CERT_FILE that the environment names cannot be used.
    """
    headers = {**headers, "Accept-Encoding": "identity"}
    own = is_loopback(urlsplit(url).hostname or "")
    try:
        return httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout,
            trust_env=not own,
            verify=httpx.create_ssl_context(),
            event_hooks={"response": [_bound]},
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:  # httpx reads all proxies, also those it needs not
        # What is taken for a wrong port is the beginning of a password that holds a slash.
        why = "it is no address" if isinstance(error, httpx.InvalidURL) else error
        raise OptionError(
            f"The proxy that the environment names cannot be used ({why}). Give HTTP_PROXY, HTTPS_PROXY and "
            "ALL_PROXY an address that begins with http://, or unset them."
        ) from error
    except OSError as error:
        if error.filename:  # the file for TLS keys: its own words name it, as they do not the one of certificates
            raise
        raise OptionError(
            f"SSL_CERT_FILE is {os.environ.get('SSL_CERT_FILE')!r}, and no certificate can be read there ({error}). "
            "Set it to a file with your authority's certificate (PEM: -----BEGIN CERTIFICATE-----), or unset it."
        ) from error


def _bound(response: httpx.Response) -> None:
    """Have the body, which is not read yet, end at the largest size."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx.DecodingError("they are packed, which was not asked for", request=response.request)
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = _Bounded(response.stream, response.request)


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, request: httpx.Request) -> None:
        self._stream, self._request = stream, request

    def __iter__(self) -> Iterator[bytes]:
        size, limit_s = 0, self._request.extensions["timeout"]["read"]
        ends = time.monotonic() + limit_s
        for chunk in self._stream:
            size += len(chunk)
            if time.monotonic() > ends:
                raise httpx.ReadTimeout(f"no whole answer in {limit_s:g} s", request=self._request)
            if size > LARGEST_ANSWER:
                raise httpx.DecodingError(f"larger than {LARGEST_ANSWER >> 20} MiB", request=self._request)
            yield chunk

    def close(self) -> None:
        self._stream.close()


def proxy_hint(url: str) -> str:
    """A sentence on the proxy that stands before a server; "" where none does."""
    parts = urlsplit(url)
    host, proxies = parts.hostname or "", getproxies()
    if is_loopback(host) or proxy_bypass(host) or not (parts.scheme in proxies or "all" in proxies):
        return ""
    return f" Requests go by the proxy that the environment names; if they should not, add {host} to NO_PROXY."
