"""The Label Studio server that the environment names; apart from the service, whose SDK takes a second to import."""

import os

from active.label_studio.errors import KEY_VARIABLE, URL_VARIABLE
from warehouse import SettingsError

TIMEOUT_S = 60.0


def server_from_env() -> tuple[str, str] | None:
    """Address and key in LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, or None when neither is set.

    Raises:
        SettingsError: only one of them is set.
    """
    url, key = (os.environ.get(name, "").strip() for name in (URL_VARIABLE, KEY_VARIABLE))
    if not url and not key:
        return None
    if not url or not key:
        have, lack = (URL_VARIABLE, KEY_VARIABLE) if url else (KEY_VARIABLE, URL_VARIABLE)
        raise SettingsError(f"{have} is set but {lack} is not; set both to use Label Studio, or neither")
    return url, key
