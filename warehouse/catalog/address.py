"""The address of a server as a person enters it, which stands in messages, reports and tables afterwards; own ones; and
by which certificates a server is known.
"""

import os
import ssl
from urllib.parse import urlsplit

from warehouse.errors import SettingsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_plain_address(url: str) -> bool:
    """Whether requests can go there over HTTP, and nothing but a place is told: no log-in, no question, no fragment."""
    import httpx  # takes longer to import than a command that asks nobody

    try:
        parts, _ = urlsplit(url), httpx.URL(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # a port that is no number, half an IPv6 address
        return False
    return known and "@" not in parts.netloc and "?" not in url and "#" not in url


def is_own(url: str) -> bool:
    """Whether an address is one of this machine, which no proxy can reach."""
    return urlsplit(url).hostname in LOOPBACK


def authorities() -> ssl.SSLContext:
    """What a server's certificate is checked by: those in the file that SSL_CERT_FILE names, else the usual ones.

    Raises:
        SettingsError: there is no such file, or no certificate in it.
    """
    import httpx

    try:
        return httpx.create_ssl_context()
    except OSError as error:
        if error.filename:  # the file for TLS keys: its own words name it, as they do not the one of certificates
            raise
        raise SettingsError(
            f"SSL_CERT_FILE is {os.environ.get('SSL_CERT_FILE')!r}, and no certificate can be read there ({error}). "
            "Set it to a file with your authority's certificate (PEM: -----BEGIN CERTIFICATE-----), or unset it."
        ) from error


def way_to_trust(refusal: str) -> str:
    """What to do about a certificate that was refused with these words of OpenSSL."""
    if "mismatch" in refusal:
        return "Ask the server by a name that its certificate holds"
    if "expired" in refusal or "not yet valid" in refusal:
        return "Renew the server's certificate, or put this machine's clock right"
    return "Set SSL_CERT_FILE to a file with your authority's certificate"
