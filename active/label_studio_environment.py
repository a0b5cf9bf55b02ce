"""Whether the environment names a Label Studio server; apart from the service, whose SDK takes a second to import."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from active.label_studio_failures import KEY_VARIABLE, URL_VARIABLE
from warehouse import SettingsError

if TYPE_CHECKING:
    from active.label_studio import LabelStudioService


def label_studio_from_env(
    project: str,
    *,
    annotators_per_task: int = 1,
    multi_label: bool = False,
    key_file_of: Callable[[str, str], Path | None] = lambda *_: None,
) -> "LabelStudioService | None":
    """The service that LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY describe, or None when neither is set.

    Args:
        project, annotators_per_task, multi_label: as for `LabelStudioService`.
        key_file_of: the file with the key of a local server, by its address and key; None for another's.

    Raises:
        SettingsError: only one of them is set, or one cannot be used.
    """
    url, key = (os.environ.get(name, "").strip() for name in (URL_VARIABLE, KEY_VARIABLE))
    if not url and not key:
        return None
    if not url or not key:
        have, lack = (URL_VARIABLE, KEY_VARIABLE) if url else (KEY_VARIABLE, URL_VARIABLE)
        raise SettingsError(f"{have} is set but {lack} is not; set both to use Label Studio, or neither")
    from active.label_studio import LabelStudioService

    return LabelStudioService(
        url,
        key,
        project,
        annotators_per_task=annotators_per_task,
        multi_label=multi_label,
        key_file=key_file_of(url, key),
    )
