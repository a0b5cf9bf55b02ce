"""A routed encoder comes back from its file as it was; a damaged or foreign file is refused with the reason."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from engine.errors import EngineError, ModelFileError, OptionError
from engine.load import load_encoder
from engine.model.config import RoutedConfig
from engine.model.dense import pack
from engine.model.routed import RoutedEncoder
from engine.weights.routed_file import FORMAT, write_routed
from engine.weights.safetensors_file import TensorFile, metadata
from tests.engine.stored import Stored, stored
from tests.engine.tiny import config_values, tiny_routed, tiny_routed_config, tiny_texts, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> RoutedEncoder:
    made = tiny_routed(tiny_routed_config(expert_mode="token", quorum=2, kept=(0, 2)))
    with torch.no_grad():
        made.layer(0).expert_router.balance_U[1] = 0.25
        made.tokens.weight[7] *= 100  # each row has its own scale
        made.tokens.weight[8] = 0
    return made


@pytest.fixture(scope="module")
def content(model: RoutedEncoder, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("file") / "routed.safetensors"
    write_routed(path, model, tiny_tokenizer(), {"trained": "no", "seed": "0"})
    return path.read_bytes()


def parsed(content: bytes) -> Stored:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        return stored(path)


def refused(content: bytes, match: str) -> None:
    with pytest.raises(ModelFileError, match=match):
        parsed(content)


def remade(content: bytes, notes: dict[str, Any] | None = None, **tensors: torch.Tensor | None) -> bytes:
    """The file with other metadata or tensors; None leaves one out."""
    found: dict[str, torch.Tensor | None] = {**load(content), **tensors}
    known = {name: value for name, value in found.items() if value is not None}
    old = metadata(content, name="x")
    return save(known, metadata={**old, **(notes or {})})


def test_everything_comes_back(model: RoutedEncoder, content: bytes) -> None:
    file = parsed(content)
    assert file.tokenizer == tiny_tokenizer()
    assert file.model.config == model.config
    assert {name: file.notes[name] for name in ("trained", "seed", "format")} == {
        "trained": "no",
        "seed": "0",
        "format": FORMAT,
    }
    assert not file.model.training
    assert not any(value.requires_grad for value in file.model.parameters())
    state, found = model.state_dict(), file.model.state_dict()
    assert state.keys() == found.keys()
    for name, value in state.items():
        assert found[name].dtype == torch.float32
        error = (found[name] - value).abs()
        if name == "tokens.weight":  # half a step of 8 bits
            assert (error <= value.abs().amax(dim=1, keepdim=True) / 127 * 0.501 + 1e-7).all()
            assert error.max() > 0
        elif name == "positions.weight" or name.split(".")[-1] in ("qkv", "output", "up", "down", "shared_up"):
            assert (error <= value.abs() * 2**-11 + 2**-24).all(), name
        elif not name.endswith(("shared_qkv", "shared_output", "shared_down")):
            assert torch.equal(found[name], value), name
    assert any(torch.isinf(value).any() for name, value in found.items() if name.endswith("thresholds_B"))


def test_the_file_is_small_and_its_encoder_close(model: RoutedEncoder, content: bytes) -> None:
    batch = pack(sorted(tiny_texts(60, seed=8), key=len))
    with torch.inference_mode():
        for budget in (1, 3):
            cosine_S = (model(batch, budget) * parsed(content).model(batch, budget)).sum(dim=1)
            assert cosine_S.mean() > 0.995
    numbers = sum(value.numel() for value in model.state_dict().values())
    assert len(content) < 2.6 * numbers + len(tiny_tokenizer()) + 8192


def test_what_is_written_again_from_a_file_is_the_same_file(content: bytes, tmp_path: Path) -> None:
    file = parsed(content)
    path = tmp_path / "again.safetensors"
    write_routed(path, file.model, file.tokenizer, file.notes)
    assert path.read_bytes() == content


def test_a_file_that_was_cut_off_is_refused_wherever(content: bytes) -> None:
    header = 8 + int.from_bytes(content[:8], "little")
    places = {0, 1, 7, 8, 9, 100, header - 1, header, header + 1, len(content) - 1}
    places |= set(range(0, len(content), len(content) // 40))
    for place in places:
        with pytest.raises(ModelFileError, match=r"x\.safetensors"):
            parsed(content[:place])


def test_bytes_behind_the_end_are_refused(content: bytes) -> None:
    refused(content + b"\0", f"has {len(content) + 1} bytes, and tensor .* ends at byte {len(content)}")


def test_a_header_with_flipped_bits_is_refused_or_names_what_is_wrong(content: bytes) -> None:
    header = 8 + int.from_bytes(content[:8], "little")
    told = 0
    for place in range(0, header, max(1, header // 150)):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        try:
            file = parsed(bytes(flipped))
        except ModelFileError:
            told += 1
        else:  # a bit of the notes, or of a number of the configuration that may have this value too
            assert isinstance(file.model, RoutedEncoder)
    assert told > 100


@pytest.mark.parametrize("garbage", [b"", b"\0" * 7, b"\xff" * 5000, b"PK\x03\x04" * 100, b"\x80\x02}q\x00." * 50])
def test_garbage_is_refused(garbage: bytes) -> None:
    refused(garbage, "x.safetensors is not a safetensors file, or is cut off")


@pytest.mark.parametrize(
    "header", [b"[]", b"nul", b'{"__metadata__": 5}', b'{"__metadata__": {"format": 1}}', b"[" * 90_000]
)
def test_a_strange_header_is_refused(header: bytes) -> None:
    refused(len(header).to_bytes(8, "little") + header, "x.safetensors has")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("a", [10**1000] * 300), ("a" * 100_000, [3]), ("a", [10**30, 0]), ("a", [0] * 9)],
    ids=["huge", "name", "zero", "dimensions"],
)
def test_sizes_beyond_the_file_are_refused_without_reckoning_with_them(
    name: str, shape: list[int], tmp_path: Path
) -> None:
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFileError, match=r"x\.safetensors is damaged or cut off: tensor a") as told:
        TensorFile(path)
    assert len(str(told.value)) < 500


def test_a_foreign_safetensors_file_is_refused() -> None:
    refused(
        save({"weight": torch.zeros(3)}), f"has format None, expected '{FORMAT}' or .* Make one with: siftline engine"
    )
    refused(save({"weight": torch.zeros(3)}, metadata={"format": "pt"}), "has format 'pt'")


def test_another_version_of_the_format_is_refused(content: bytes) -> None:
    refused(remade(content, {"format": "siftline-routed-2"}), "'siftline-routed-2', expected 'siftline-routed-1'")


@pytest.mark.parametrize(
    "name",
    ["tokens.weight", "tokens.scale", "layers.1.attention.qkv", "layers.0.expert_router.thresholds_B", "norm.bias"],
)
def test_a_missing_tensor_is_named(content: bytes, name: str) -> None:
    refused(remade(content, **{name: None}), f"tensor {name} is missing")


def test_an_unknown_tensor_is_named(content: bytes) -> None:
    refused(remade(content, **{"layers.2.attention.qkv": torch.zeros(2)}), "unknown tensors .*layers.2.attention.qkv")


def test_a_file_without_tokenizer_is_refused(content: bytes) -> None:
    refused(remade(content, **{"tokenizer.json": None}), "carries no tokenizer")
    refused(remade(content, **{"tokenizer.json": torch.zeros(9)}), "carries no tokenizer")


def test_a_tokenizer_that_does_not_fit_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for other in (b"{}", b"no json", tiny_tokenizer()[:-20]):
        path.write_bytes(remade(content, **{"tokenizer.json": torch.frombuffer(bytearray(other), dtype=torch.uint8)}))
        with pytest.raises(ModelFileError, match=r"tokenizer\.json cannot be read"):
            load_encoder(str(path), max_tokens=20, threads=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.0.attention.qkv", torch.zeros(2, 32, 25).half()),
        ("layers.0.attention.qkv", torch.zeros(2, 32, 24)),
        ("layers.0.attention.qkv", torch.zeros(2, 32, 24).bfloat16()),
        ("layers.0.attention.bias", torch.zeros(32).half()),
        ("tokens.weight", torch.zeros(100, 32)),
        ("tokens.weight", torch.zeros(99, 32, dtype=torch.int8)),
        ("tokens.scale", torch.zeros(99)),
        ("layers.0.head_router.balance_U", torch.zeros(2, dtype=torch.int64)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}{list(value.shape)}",
)
def test_another_shape_or_type_is_refused(content: bytes, name: str, value: torch.Tensor) -> None:
    refused(remade(content, **{name: value}), f"tensor {name} is {value.dtype} .*expected")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name",
    ["layers.1.feed_forward.up", "norm.weight", "tokens.scale", "positions.weight", "layers.0.head_router.balance_U"],
)
def test_values_that_are_not_finite_are_refused(content: bytes, name: str, bad: float) -> None:
    value = load(content)[name].clone()
    value.view(-1)[-1] = bad
    refused(remade(content, **{name: value}), f"tensor {name} holds values that are not finite")


def test_a_threshold_may_be_infinite_but_must_be_a_number(content: bytes) -> None:
    name = "layers.0.head_router.thresholds_B"
    value = load(content)[name].clone()
    assert value[-1] == -torch.inf
    value[0] = torch.nan
    refused(remade(content, **{name: value}), f"tensor {name} holds values that are not finite")


IMPOSSIBLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"experts": 5}, {}, "5 experts of 12"),
    ({"experts": "4"}, {}, "experts is '4'"),
    ({"experts": True}, {}, "experts is True"),
    ({"experts": None}, {}, "experts is None"),
    ({"expert_width": 0}, {}, "expert_width is 0"),
    ({"shared_heads": 4}, {}, "shared_heads is 4 of 4"),
    ({"shared_heads": -1}, {}, "shared_heads is -1"),
    ({"kept": [0, 9]}, {}, r"layers to keep are \[0, 9\]"),
    ({"kept": []}, {}, "layers to keep"),
    ({"kept": 2}, {}, "cannot be used"),
    ({"kept": [[0]]}, {}, "cannot be used|layers to keep"),
    ({"expert_mode": "layer"}, {}, "expert_mode is 'layer'"),
    ({"expert_mode": ["token"]}, {}, "expert_mode"),
    ({"quorum": 0}, {}, "quorum is 0"),
    ({"budgets": [0.3, 0.2, 0.5, 1.0]}, {}, "must ascend"),
    ({"budgets": ["a", "b", "c", "d"]}, {}, "cannot be used|budgets"),
    ({"budgets": [0.2, 0.3, 0.5, float("nan")]}, {}, "budgets"),
    ({"head_shares": [0.1, 0.2, 0.3]}, {}, "head_shares"),
    ({"expert_shares": [0.1, 0.2, 0.3, 2.0]}, {}, "expert_shares"),
    ({"expert_shares": [0.1, 0.2, 0.3, 0.9]}, {}, "must let all heads and experts work"),
    ({"new": 1}, {}, "cannot be used"),
    ({}, {"width": 33}, "heads do not divide its width 33"),
    ({}, {"vocab": 0}, "vocab is 0"),
    ({}, {"norm_eps": float("nan")}, "norm_eps"),
    ({}, {"norm_eps": "tiny"}, "cannot be used|norm_eps"),
    ({}, {"new": 1}, "cannot be used"),
    ({}, {"vocab": 2**62}, "."),
    ({}, {"width": 2**40}, "."),
    ({}, {"positions": 10**30}, "."),
    ({"quorum": 10**30}, {}, "quorum"),
]


@pytest.mark.parametrize(("change", "base", "words"), IMPOSSIBLE, ids=[str(a or b) for a, b, _ in IMPOSSIBLE])
def test_an_impossible_configuration_is_refused(
    model: RoutedEncoder, content: bytes, change: dict[str, Any], base: dict[str, Any], words: str
) -> None:
    values = config_values(model.config)
    values["base"].update(base)
    refused(remade(content, {"config": json.dumps({**values, **change})}), words)


@pytest.mark.parametrize("config", ["", "{", "[]", "null", "{}", '{"base": 5}', '{"base": {}}', "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(content: bytes, config: str) -> None:
    refused(remade(content, {"config": config}), "configuration of the routed encoder")


def test_a_configuration_of_countless_layers_costs_no_memory(model: RoutedEncoder) -> None:
    values = config_values(model.config)
    values["base"]["layers"] = 10**12
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29));"
        "from engine.model.config import RoutedConfig; from engine.errors import ModelFileError\n"
        "try: RoutedConfig.parse(sys.argv[1])\n"
        "except ModelFileError: pass"
    )
    ended = subprocess.run([sys.executable, "-c", code, json.dumps(values)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-300:]


def test_a_configuration_survives_its_json(model: RoutedEncoder) -> None:
    assert RoutedConfig.parse(model.config.to_json()) == model.config


def test_a_new_file_replaces_the_old_one_only_when_it_is_whole(
    model: RoutedEncoder, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    (tmp_path / "x.safetensors.part").mkdir()  # nothing can be written there
    with pytest.raises(OptionError, match=r"cannot be written to .*x\.safetensors"):
        write_routed(path, model, tiny_tokenizer(), {"trained": "yes"})
    assert path.read_bytes() == content
    (tmp_path / "x.safetensors.part").rmdir()
    (tmp_path / "x.safetensors.part").write_bytes(b"left by a crash")
    write_routed(path, model, tiny_tokenizer(), {"trained": "yes"})
    assert stored(path).notes["trained"] == "yes"
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_writer_that_is_killed_leaves_the_old_file(model: RoutedEncoder, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from engine.weights.routed_file import write_routed; from tests.engine.stored import stored\n"
        "path = Path(sys.argv[1]); file = stored(path)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "write_routed(path, file.model, file.tokenizer, {'trained': 'yes'})"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    assert killed.returncode < 0, killed.stderr.decode()
    assert 0 < (tmp_path / "x.safetensors.part").stat().st_size <= 20_000 < len(content)
    assert path.read_bytes() == content


def test_a_disk_without_room_keeps_no_half_file(model: RoutedEncoder, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OptionError, match="cannot be written to"):
            write_routed(path, model, tiny_tokenizer(), {"trained": "yes"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_folders_are_made_and_a_place_that_cannot_be_written_is_named(model: RoutedEncoder, tmp_path: Path) -> None:
    write_routed(tmp_path / "a" / "b" / "x.safetensors", model, tiny_tokenizer())
    assert (tmp_path / "a" / "b" / "x.safetensors").is_file()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OptionError, match="cannot be written"):
        write_routed(tmp_path / "file" / "x.safetensors", model, tiny_tokenizer())


def test_a_file_is_an_encoder_by_its_path(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    encoder = load_encoder(str(path), active=0.5, max_tokens=20, threads=1)
    assert encoder.dimension == 32
    assert encoder.encode(["oil", ""]).shape == (2, 32)
    other = remade(content, {"trained": "no more"})
    path.write_bytes(other)
    assert load_encoder(str(path), active=0.5, max_tokens=20, threads=1).encoder_id != encoder.encoder_id


def test_a_short_model_has_its_own_limit_of_tokens(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content)
    encoder = load_encoder(str(path), threads=1)
    assert encoder.max_tokens == 80
    assert encoder.embed(["oil " * 500]).tokens.tolist() == [80]
    with pytest.raises(OptionError, match="max_tokens is 81; the model takes 3 to 80"):
        load_encoder(str(path), max_tokens=81, threads=1)


def test_a_missing_or_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.safetensors cannot be read: .*\. Name a file that is there\.$"):
        load_encoder(str(tmp_path / "none.safetensors"))
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ModelFileError, match=r"folder\.safetensors cannot be read"):
        load_encoder(str(tmp_path / "folder.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(content[:-1])
    with pytest.raises(EngineError, match=r"cut\.safetensors is damaged or cut off"):
        load_encoder(str(tmp_path / "cut.safetensors"))


def test_weights_too_large_for_the_file_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = tiny_routed(tiny_routed_config())
    with torch.no_grad():
        model.layer(0).feed_forward.up[0, 0, 0] = 1e6
    with pytest.raises(OptionError, match="above 65,504"):
        write_routed(tmp_path / "x.safetensors", model, tiny_tokenizer())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["norm.weight", "tokens.weight", "layers.0.head_router.weight"])
def test_weights_that_are_not_finite_are_refused_in_any_type(name: str, tmp_path: Path) -> None:
    model = tiny_routed(tiny_routed_config())
    with torch.no_grad():
        model.get_parameter(name).flatten()[3] = torch.inf
    with pytest.raises(OptionError, match="not finite"):
        write_routed(tmp_path / "x.safetensors", model, tiny_tokenizer())
    assert not list(tmp_path.iterdir())
