"""The shallow encoder by its name: proved, near its parent, the same bits over HTTP, and part of the benchmark."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.engine.subjects import read_controls, read_encoder, subjects
from engine.client.remote import connect
from engine.errors import ModelFileError, OptionError
from engine.load import load_encoder
from engine.protocol import Encoder
from engine.weights import shipped as shipped_weights
from engine.weights.shipped import SHIPPED, shipped
from flows.project.project import Project
from tests.engine.texts import make_texts
from tests.engine_servers import server_process

SENTENCES = [
    "Wheat fell on better weather, said the ministry.",
    "A man is playing a guitar on the stage.",
    "The bank cut its rates for the third time this year.",
    "How do I reset my password?",
    "The food was cold and the waiter was rude.",
]


def test_it_is_near_its_parent(encoder: Encoder, shallow: Encoder) -> None:
    cosine_S = (encoder.encode(SENTENCES) * shallow.encode(SENTENCES)).sum(axis=1)
    assert cosine_S.min() > 0.8
    assert shallow.encoder_id.startswith("shallow-64-")
    assert set(shallow.embed(SENTENCES).active_frac.tolist()) == {np.float32(1 / 3)}


def test_the_file_by_its_path_is_the_same_encoder(shallow: Encoder) -> None:
    path, _ = shipped("shallow")
    assert load_encoder(str(path), max_tokens=64, threads=1).encoder_id == shallow.encoder_id


def test_one_flipped_bit_of_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sha256 = shipped("shallow")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    (tmp_path / path.name).write_bytes(content)
    shutil.copy(path.with_suffix(".json"), tmp_path)
    monkeypatch.setattr(shipped_weights, "MODELS", tmp_path)
    for precision in ("fp32", "int8"):
        with pytest.raises(ModelFileError, match=f"expected {sha256}"):
            load_encoder("shallow", precision=precision)
    (tmp_path / f"{SHIPPED['shallow']}.json").unlink()
    with pytest.raises(ModelFileError, match=r"shallow-minilm\.json cannot be read"):
        load_encoder("shallow")


def test_a_project_has_the_same_bits_from_a_server(shallow: Encoder, tmp_path: Path) -> None:
    texts = make_texts(40, longest=50, seed=6)
    with server_process("--encoder", "shallow", "--max-tokens", "64", "--threads", "1") as server:
        settings = f'[encoder]\nname = "shallow"\nmax_tokens = 64\n[engine]\nurl = "{server.url}"\n'
        (tmp_path / "siftline.toml").write_text(
            f'[project]\nname = "p"\nclasses = ["a", "b"]\n[[sources]]\nname = "s"\npath = "x.csv"\n{settings}'
        )
        remote = Project(tmp_path).encoder
        assert remote.encoder_id == shallow.encoder_id
        assert np.array_equal(remote.encode(texts), shallow.encode(texts))
        assert np.array_equal(remote.embed(texts).active_frac, shallow.embed(texts).active_frac)
        for name, active in (("shallow", 0.3), ("routed", None), ("dense", None)):
            with pytest.raises(OptionError, match="the settings ask for"):
                connect(server.url, name=name, active=active)


def test_the_benchmark_takes_it_by_name() -> None:
    measured = subjects(read_encoder("routed"), read_controls(["shallow"]), threads=1)
    [control] = measured.controls
    assert control.name == "shallow 1"
    assert control in measured.main()
    assert control.client.encoder_id == load_encoder("shallow", threads=1).encoder_id
    assert control.file is not None
    assert {"layers", "steps"} <= control.file.facts()["notes"].keys()
    with pytest.raises(ModelFileError, match="--controls shallow"):
        read_encoder("shallow")
