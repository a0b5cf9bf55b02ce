"""`siftline init`: a new project folder with commented settings, never over an existing one."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

from flows.cli.console import out
from flows.settings import FILE_NAME, load_settings
from warehouse import SettingsError


def init_project(
    folder: Path, *, classes: str, source: Path | None, text: str, id_field: str | None, sample: str | None
) -> None:
    """Write siftline.toml and labeling_functions.py into a folder and say what to do next.

    Raises:
        SettingsError: there is a project already, or the arguments do not fit together.
    """
    if (folder / FILE_NAME).exists():
        raise SettingsError(f"{folder / FILE_NAME} exists already; nothing was changed. Edit it, or name a new folder.")
    names = [name.strip() for name in classes.split(",") if name.strip()]
    gold = None
    if sample is not None:
        from features.samples import get_sample

        fetched = get_sample(sample, folder / "data")
        names, path, text, id_field, gold = (
            list(fetched.classes),
            "data/items.parquet",
            "text",
            "id",
            "data/gold.parquet",
        )
    elif source is not None:
        if not source.is_file():
            raise SettingsError(f"--source names {source}, which does not exist.")
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / "data" / source.name
        if source.absolute() != target.absolute():
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
        path = f"data/{source.name}"
    else:
        path = "data/records.jsonl"
    if len(names) < 2:
        raise SettingsError("Name at least two classes: --classes spam,ham")
    folder.mkdir(parents=True, exist_ok=True)
    template = files("flows.cli").joinpath("siftline.toml").read_text("utf-8")
    filled = (
        template.replace("@NAME@", json.dumps(folder.absolute().name))
        .replace("@CLASSES@", json.dumps(names, ensure_ascii=False))
        .replace("@PATH@", json.dumps(path, ensure_ascii=False))
        .replace("@TEXT@", json.dumps(text, ensure_ascii=False))
        .replace("@ID@", f"id = {json.dumps(id_field)}" if id_field else '# id = "id"')
        .replace("@SPLIT@", 'split = "split"' if sample else '# split = "split"')
        .replace("@GOLD@", f'gold = "{gold}"' if gold else '# gold = "data/gold.parquet"')
    )
    functions = files("flows.cli").joinpath("labeling_functions.py.txt").read_text("utf-8")
    functions = functions.replace("@FIRST@", json.dumps(names[0])).replace("@SECOND@", json.dumps(names[1]))
    (folder / "labeling_functions.py").write_text(functions, "utf-8")
    (folder / FILE_NAME).write_text(filled, "utf-8")
    load_settings(folder)
    out.print(f"Project made in {folder}")
    out.print(f"1. Look at {folder / FILE_NAME}")
    out.print(f"2. Write labeling functions in {folder / 'labeling_functions.py'}; try them: siftline lf preview")
    out.print(f"3. siftline run --project {folder}")
