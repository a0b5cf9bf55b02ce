"""The address of a server as a person enters it, which stands in messages, reports and tables afterwards; own ones."""

from urllib.parse import urlsplit

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
