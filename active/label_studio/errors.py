"""What an error status of a Label Studio server means for a person: try again, or which setting to change and how."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from warehouse import ServiceError, ServiceRefused, SiftlineError

URL_VARIABLE, KEY_VARIABLE = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The server and project that a message is about; the key is here to be kept out of it.

    Attributes:
        key_file: file of a local server that the key is from; None where the environment names it.
    """

    url: str
    project: str
    key: str = field(repr=False)
    key_file: Path | None = None

    def clean(self, text: object) -> str:
        """What a server said: short, on one line, without control characters and without the key."""
        return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", str(text)).replace(self.key, "***").split())[:300]


def failure(status: int, body: object, headers: Mapping[str, str], place: Place) -> SiftlineError:
    """The error for an answer of the server that cannot be used.

    Args:
        status: HTTP status; 2xx when a page came instead of data.
        body: the answer as JSON or text.
        headers: with names in lower case.
        place: what was called.

    Returns:
        `ServiceError` when a retry may help, `ServiceRefused` when a person must act.
    """
    said = place.clean(_detail(body))
    if status == 403 and re.search("reserved network address|private network addresses", said):  # not about the key
        return ServiceRefused(
            f"Label Studio at {place.url} calls no address of a private network: {said} (status 403). Give the "
            "receiver of its webhooks a public name, or start Label Studio with SSRF_PROTECTION_ENABLED=false where "
            "you trust all who may log in to it."
        )
    if status in (401, 403):
        way = f"set {KEY_VARIABLE} to it"
        if place.key_file is not None:
            way = (
                "write it as api_key into that file; where `siftline up` runs the project, call it again, and where "
                f"{KEY_VARIABLE} is set by hand, set that anew too"
            )
        return ServiceRefused(
            f"Label Studio at {place.url} does not accept the key in {place.key_file or KEY_VARIABLE}: {said} (status "
            f"{status}). Log in there as a user who may manage projects, open Account & Settings, copy a personal "
            f"access token and {way}."
        )
    if status == 404:
        return ServiceRefused(
            f"Label Studio at {place.url} does not know what was asked for: {said} (status 404). Check {URL_VARIABLE}, "
            f"and whether project '{place.project}' or one of its tasks was deleted meanwhile."
        )
    if status in (408, 425, 429) or status >= 500:
        wait = f", asks to wait {place.clean(headers['retry-after'])} s" if headers.get("retry-after") else ""
        return ServiceError(f"Label Studio at {place.url} is busy or broken: {said} (status {status}{wait})")
    if 300 <= status < 400:
        target = place.clean(headers.get("location", "an address it does not name"))
        return ServiceRefused(f"{place.url} redirects to {target}; set {URL_VARIABLE} to the server's own address")
    if status >= 400:
        return ServiceRefused(
            f"Label Studio at {place.url} refused a request for project '{place.project}': {said} (status {status})"
        )
    return ServiceError(
        f"{place.url} answered with a page instead of data, perhaps a log-in page: {said}; check {URL_VARIABLE}"
    )


def _detail(body: object) -> str:
    """The sentence in an error body that tells the reason."""
    if isinstance(body, dict):
        parts = [body.get("detail"), body.get("validation_errors"), body.get("non_field_errors")]
        return "; ".join(str(part) for part in parts if part) or str(body)
    if isinstance(body, str):
        # Step by step and without a `<` inside a tag: a page of many tags that never end would take minutes else.
        end = re.search(r"</title>", body, re.IGNORECASE)
        begin = re.search(r"<title[^<>]*>", body[: end.start()], re.IGNORECASE) if end else None
        return body[begin.end() : end.start()] if begin and end else re.sub(r"<[^<>]*>", " ", body)
    return str(body)
