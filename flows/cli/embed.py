"""`siftline embed`: vectors for any file of texts."""

import time
from pathlib import Path

from flows.cli.terminal.console import out, say, stage_progress
from flows.report.text import counted


def embed_texts(
    source: Path,
    output: Path,
    text_field: str,
    id_field: str | None,
    encoder_name: str,
    active: float | None,
    max_tokens: int | None,
    precision: str,
    device: str,
) -> None:
    """Embed a file and print how many texts were done and how fast."""
    from engine.load import load_encoder
    from features.embedding.file import embed_file, read_through

    began = time.monotonic()
    texts = read_through(source, text_field=text_field, id_field=id_field, output=output)
    encoder = load_encoder(encoder_name, active=active, max_tokens=max_tokens, precision=precision, device=device)
    with stage_progress() as progress:
        count = embed_file(texts, encoder, progress=progress.of("embed"))
    seconds = time.monotonic() - began
    out.print(f"{counted(count, 'vector')} of {encoder.dimension} by {encoder.encoder_id} in {seconds:.1f} s: {output}")
    tell_without_text(texts.without_text)


def tell_without_text(count: int) -> None:
    """Say how many records of a file have no row in the output."""
    if count:
        say(f"left out: records whose text is empty: {count:,}")
