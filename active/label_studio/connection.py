"""A connection to a Label Studio server: each request sent once, within a limit, and every failure an error in words.

The only module that imports Label Studio's SDK. The SDK's own retries are off, because a repeated import stores its
tasks twice, and what it fills in for parts that an answer lacks is not taken for data.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.parse_error import ParsingError

from active.label_studio.environment import TIMEOUT_S
from active.label_studio.errors import KEY_VARIABLE, URL_VARIABLE, Place, failure
from active.label_studio.http import DeadlineClient
from warehouse import ServiceError, ServiceRefused, SettingsError, SiftlineError
from warehouse.catalog.address import authorities, is_own, is_plain_address, way_to_trust

T = TypeVar("T")
Json = dict[str, Any]


class Connection:
    """One server, called with one key about one project.

    Args:
        url: address of the server, with its path prefix if it has one.
        api_key: personal access token or legacy token of a user who may manage the project.
        project: title of the project, 3 to 50 characters.
        timeout_s: longest time for one whole request, its body included.
        key_file: file of a local server that the key is from, for messages; None where the environment names it.

    Raises:
        SettingsError: the address, the key, the title, the environment's proxy or SSL_CERT_FILE cannot be used.
        ServiceRefused: the key is a token that has expired.
    """

    def __init__(
        self, url: str, api_key: str, project: str, *, timeout_s: float = TIMEOUT_S, key_file: Path | None = None
    ) -> None:
        if not is_plain_address(url):
            raise SettingsError(
                f"{URL_VARIABLE} must look like http://host:8080 or https://host/path, without a log-in"
            )
        if not re.fullmatch(r"[!-~]+", api_key):
            raise SettingsError(f"{KEY_VARIABLE} holds a blank or a character that no key has; copy the key again")
        project = project.strip()  # as Label Studio does: it stores no title with a blank at an end
        if not 3 <= len(project) <= 50:
            raise SettingsError(
                f"project name {project!r} has {len(project)} characters; Label Studio takes 3 to 50. Change [project] "
                "name; where people were asked in files already, [warehouse] path too, and take their labels along: "
                "siftline docs label-studio 'Other classes'"
            )
        self.url = url.rstrip("/")
        self.place = Place(url=self.url, project=project, key=api_key, key_file=key_file)
        # Redirects are not followed: a POST would turn into a GET, and a log-in page would look like an answer.
        # A proxy that the environment names cannot reach this machine's own addresses.
        try:
            http = DeadlineClient(
                timeout=timeout_s, follow_redirects=False, trust_env=not is_own(url), verify=authorities()
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            # What is taken for a wrong port is the beginning of a password that holds a slash.
            why = "it is no address" if isinstance(error, httpx.InvalidURL) else error
            raise SettingsError(
                f"The proxy that the environment names cannot be used ({why}). Give HTTP_PROXY, HTTPS_PROXY and "
                "ALL_PROXY an address that begins with http://, or unset them."
            ) from error

        def connect() -> LabelStudio:
            # The SDK joins `api/token/refresh/` as a browser would: without the last slash it drops a path prefix.
            return LabelStudio(
                base_url=self.url + "/", api_key=api_key, timeout=timeout_s, max_retries=0, httpx_client=http
            )

        self._connect = connect
        self._renewable = api_key.count(".") == 2  # a personal access token, which short-lived ones are made from
        self.client = self.call(connect)

    def call(self, request: Callable[[], T]) -> T:
        """Run a request and turn what goes wrong into an error that says whether a retry may help.

        Causes are cut off: their text can hold cookies, and a body that repeats the key.
        """
        try:
            return self._renewed(request)
        except SiftlineError:
            raise
        except ApiError as error:
            raise failure(error.status_code or 0, error.body, error.headers or {}, self.place) from None
        except httpx.TimeoutException as error:
            raise ServiceError(f"Label Studio at {self.url} did not answer in time ({type(error).__name__})") from None
        except httpx.DecodingError as error:
            raise ServiceError(
                f"{self.url} gave an answer that is not taken: {self.place.clean(error)}; check {URL_VARIABLE}"
            ) from None
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ServiceRefused(
                    f"Label Studio at {self.url} shows a certificate that this machine does not trust: "
                    f"{self.place.clean(error)}. {way_to_trust(str(error))}."
                ) from None
            raise ServiceError(f"Label Studio at {self.url} cannot be reached: {self.place.clean(error)}") from None
        except (ParsingError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ServiceError(
                f"{self.url} gave an answer that is not Label Studio's ({type(error).__name__}); check {URL_VARIABLE}"
            ) from None

    def _renewed(self, request: Callable[[], T]) -> T:
        """Run a request, once more with a new short-lived token when the server no longer takes the one at hand.

        A request that was refused with 401 has done nothing, so this repeats nothing.
        """
        try:
            return request()
        except ApiError as error:
            if error.status_code != 401 or not self._renewable:
                raise
        self.client = self._connect()
        return request()


# The SDK fills what an answer lacks with None, and a missing list must not pass for an empty one: the queue would send
# everything again.


def rows_of(items: Any) -> list[Json]:
    """The rows of a list; TypeError where there is none."""
    return [item.model_dump() for item in items]


def tasks_of(items: Any) -> list[Json]:
    """The rows of a list of tasks, each with its number and its data; TypeError where one is none."""
    tasks = rows_of(items)
    for task in tasks:
        count_of(task["id"])
        if not isinstance(task["data"], dict):
            raise TypeError("no data")
    return tasks


def list_of(value: Any) -> list[Any]:
    """A list; TypeError where there is none."""
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def count_of(value: Any) -> int:
    """A count or a number of something; TypeError where there is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("no number")
    return value


def flag_of(value: Any) -> bool:
    """A yes or no; TypeError where there is neither."""
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def time_of(value: Any) -> datetime:
    """A time in UTC; TypeError, ValueError or OverflowError where there is none, or one before any clock began."""
    time = value if isinstance(value, datetime) else datetime.fromisoformat(text_of(value))
    time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    if time.year < 1970:  # it would stand in the cursor, and nothing can be taken off it
        raise ValueError("a time before 1970")
    return time


def condition(field: str, operator: str, kind: str, value: object) -> Json:
    """One condition on a field of tasks, for a `query` parameter."""
    return {"filter": f"filter:tasks:{field}", "operator": operator, "type": kind, "value": value}


def json_of(value: object) -> str:
    """JSON for a `query` parameter; the server decodes percent signs in it a second time, so none may stand there."""
    return json.dumps(value).replace("%", "\\u0025")


def text_of(value: Any) -> str:
    """A text; TypeError where there is none."""
    if not isinstance(value, str):
        raise TypeError("no text")
    return value
