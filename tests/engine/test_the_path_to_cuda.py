"""What a machine without CUDA can say of `device="cuda"`: the code of the CPU computes the same vectors when its
tensors say that they are on CUDA, nothing is left on the wrong device, no sum has an order that depends on the batch,
and what cannot be done is refused in words. `test_cuda.py` is for machines that have such a device."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from engine.client.remote import connect
from engine.errors import OptionError, OverloadError
from engine.load import load_encoder
from engine.model.dense import Pack, pack, pooled
from engine.model.deterministic import linear
from engine.model.device import CUDA_BATCH_TOKENS, CUDA_ROWS
from engine.model.dispatch import combine, dispatch
from engine.runtime.loading import encoder_of
from engine.runtime.local import LocalEncoder, pack_and_compute
from engine.runtime.request import Packed
from engine.weights.in_memory import load_dense_model, load_stored_model
from engine.weights.routed_file import write_routed, write_shallow
from engine.weights.safetensors_file import TensorFile
from engine.weights.streamed import StreamedLayers, streamed_dense
from tests.engine.pretended_cuda import CudaError, pretended_cuda
from tests.engine.texts import make_texts
from tests.engine.tiny import (
    BASE,
    tiny_routed,
    tiny_routed_config,
    tiny_shallow,
    tiny_tensors,
    tiny_texts,
    tiny_tokenizer,
    write_folder,
)
from tests.engine_servers import ServerProcess

TEXTS = [*make_texts(40, longest=16, seed=31), "", *make_texts(3, longest=40, seed=32)]
CLOSE = 2e-6


@pytest.fixture(params=["token", "sequence"])
def routed_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    write_routed(path, tiny_routed(tiny_routed_config(expert_mode=request.param, quorum=2)), tiny_tokenizer())
    return path


def test_the_routed_encoder_computes_there_what_it_computes_on_the_cpu(routed_file: Path) -> None:
    here = load_encoder(str(routed_file), active=0.5, max_tokens=40, threads=1).embed(TEXTS)
    with pretended_cuda():
        encoder = load_encoder(str(routed_file), active=0.5, max_tokens=40, device="cuda")
        assert isinstance(encoder, LocalEncoder)
        there = encoder.embed(TEXTS)
        assert encoder.scheduler.batch_tokens == CUDA_BATCH_TOKENS
        assert np.abs(there.vectors - here.vectors).max() < CLOSE
        assert there.routes == here.routes
        for chosen in ([3], [17, 40, 43], range(0, 44, 2)):
            assert np.array_equal(encoder.encode([TEXTS[index] for index in chosen]), there.vectors[list(chosen)])


def test_a_shallow_encoder_computes_there_what_it_computes_on_the_cpu(tmp_path: Path) -> None:
    write_shallow(tmp_path / "shallow.safetensors", tiny_shallow(), tiny_tokenizer())
    path = str(tmp_path / "shallow.safetensors")
    here = load_encoder(path, max_tokens=40, threads=1)
    with pretended_cuda():
        encoder = load_encoder(path, max_tokens=40, device="cuda")
        there = encoder.embed(TEXTS)
        assert np.abs(there.vectors - here.encode(TEXTS)).max() < CLOSE
        assert encoder.encoder_id.startswith("shallow-cuda-40-")
        assert np.array_equal(encoder.encode(TEXTS[::-2]), there.vectors[::-2])


def test_the_dense_encoder_computes_there_what_it_computes_on_the_cpu(tmp_path: Path) -> None:
    texts = tiny_texts(60, seed=33, longest=70)  # more tokens than one product has rows
    assert sum(map(len, texts)) > 2 * CUDA_ROWS

    def vectors(device: str, sequences: list[list[int]]) -> np.ndarray:
        with TensorFile(write_folder(tmp_path) / "model.safetensors") as file:
            model = load_dense_model(file, BASE, device)

        def compute(batch: Pack, traced: bool) -> Packed:
            return Packed(model(batch), (), ())

        return pack_and_compute(compute, device, sequences, False).vectors.numpy()

    here = vectors("cpu", texts)
    with pretended_cuda():
        there = vectors("cuda", texts)
        some = vectors("cuda", texts[20:23])
    assert np.abs(there - here).max() < CLOSE
    assert np.array_equal(some, there[20:23])


def test_in_bfloat16_vectors_are_close_and_have_the_same_bits_in_any_batch(routed_file: Path) -> None:
    here = load_encoder(str(routed_file), active=1.0, max_tokens=40, threads=1).encode(TEXTS)
    with pretended_cuda():
        encoder = load_encoder(str(routed_file), active=1.0, max_tokens=40, device="cuda", precision="bf16")
        there = encoder.encode(TEXTS)
        for chosen in ([3], [17, 40, 43], range(0, 44, 2)):
            assert np.array_equal(encoder.encode([TEXTS[index] for index in chosen]), there[list(chosen)])
    assert there.dtype == np.float32
    assert np.abs(there - here).max() > 1e-4
    assert (there * here).sum(axis=1).min() > 0.999


def dense_vectors(folder: Path, sequences: list[list[int]], dtype: torch.dtype, device: str) -> np.ndarray:
    with TensorFile(write_folder(folder) / "model.safetensors") as file:
        model = load_dense_model(file, BASE, device, dtype)
    formats = {name: value.dtype for name, value in model.state_dict().items()}
    products = {name for name, found in formats.items() if found == torch.bfloat16}
    of_products = {name for name in formats if "layers." in name and "norm" not in name}
    assert products == (of_products if dtype == torch.bfloat16 else set())

    def compute(batch: Pack, traced: bool) -> Packed:
        return Packed(model(batch), (), ())

    return pack_and_compute(compute, device, sequences, False).vectors.numpy()


def test_the_dense_encoder_too(tmp_path: Path) -> None:
    texts = tiny_texts(60, seed=33, longest=70)
    here = dense_vectors(tmp_path, texts, torch.float32, "cpu")
    with pretended_cuda():
        there = dense_vectors(tmp_path, texts, torch.bfloat16, "cuda")
        some = dense_vectors(tmp_path, texts[20:23], torch.bfloat16, "cuda")
    assert (there * here).sum(axis=1).min() > 0.999
    assert np.array_equal(some, there[20:23])


DEEP = replace(BASE, layers=5)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize(("precision", "staying"), [("bf16", 0), ("fp32", 2)])
def test_a_dense_model_that_does_not_fit_gives_the_same_bits(tmp_path: Path, precision: str, staying: int) -> None:
    texts, dtype = tiny_texts(30, seed=34, longest=40), PRECISIONS[precision]
    file = TensorFile(write_folder(tmp_path, tiny_tensors(DEEP), DEEP) / "model.safetensors")
    with pretended_cuda():
        full = load_dense_model(file, DEEP, "cuda", dtype)
        found = streamed_dense(file, DEEP, budget_of(full, staying), "cuda", dtype)
        assert found is not None
        assert isinstance(found.layers, StreamedLayers)
        assert len(found.layers.resident) == staying
        assert weight_bytes(found) <= budget_of(full, staying)
        for part in (texts, texts[7:9], texts):
            pair = [
                pack_and_compute(lambda batch, _, m=model: Packed(m(batch), (), ()), "cuda", part, False).vectors
                for model in (full, found)
            ]
            assert torch.equal(*pair)


def budget_of(full: torch.nn.Module, staying: int) -> int:
    """Bytes with which so many of five layers stay."""
    layer = weight_bytes(full.get_submodule("layers.0"))
    return weight_bytes(full) - weight_bytes(full.get_submodule("tokens")) - (3 - staying) * layer


def weight_bytes(module: torch.nn.Module) -> int:
    return sum(value.nbytes for value in module.state_dict().values() if value.device.type != "meta")


def streams_the_same(path: Path, precision: str, active: float | None = None) -> None:
    """With room for one layer a file's encoder has the name and the vectors that it has with room for all."""
    options = {"active": active, "max_tokens": 40, "device": "cuda", "precision": precision}
    with pretended_cuda():
        model, _ = load_stored_model(TensorFile(path), "cuda", PRECISIONS[precision])
        full = load_encoder(str(path), **options)
        streamed = load_encoder(str(path), **options, memory_budget=budget_of(model, 1))
        assert streamed.encoder_id == full.encoder_id
        for texts in (TEXTS, TEXTS[40:], TEXTS):
            assert np.array_equal(streamed.encode(texts), full.encode(texts))


@pytest.mark.parametrize(("precision", "expert_mode"), [("bf16", "token"), ("fp32", "sequence")])
def test_a_routed_one_too_and_its_name_stays(tmp_path: Path, precision: str, expert_mode: str) -> None:
    path = tmp_path / "deep.safetensors"
    write_routed(path, tiny_routed(tiny_routed_config(DEEP, expert_mode=expert_mode)), tiny_tokenizer())
    streams_the_same(path, precision, active=0.5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_shallow_one_too(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "shallow.safetensors"
    write_shallow(path, tiny_shallow(layers=5), tiny_tokenizer())
    streams_the_same(path, precision)


def test_results_of_units_are_added_in_the_order_of_the_units() -> None:
    generator = torch.Generator().manual_seed(0)
    on_RU = torch.rand(30, 5, generator=generator) > 0.4
    start_RD, y_PD = torch.randn(30, 8, generator=generator), torch.randn(5 * CUDA_ROWS, 8, generator=generator)
    with torch.no_grad(), pretended_cuda():
        here = combine(y_PD, dispatch(on_RU), start_RD)
        there = combine(y_PD.to("cuda"), dispatch(on_RU.to("cuda")), start_RD.to("cuda")).cpu()
    assert torch.equal(here, there)


@torch.inference_mode()
def test_the_pretended_device_refuses_what_would_be_wrong_there() -> None:
    with pretended_cuda():
        x = torch.ones(7, 8, device="cuda")
        with pytest.raises(CudaError, match="of the CPU and of CUDA"):
            torch.add(x, torch.ones(7, 8))
        with pytest.raises(CudaError, match="NumPy"):
            x.numpy()
        with pytest.raises(CudaError, match="a product of 7 rows"):
            torch.mm(x, x.t())
        with pytest.raises(CudaError, match="mean adds in an order"):
            x.mean(dim=0)
        with pytest.raises(CudaError, match="index_add"):
            x.index_add_(0, torch.tensor([1, 1], device="cuda"), x[:2] / 3)
        with torch.cuda.stream(torch.cuda.Stream()), pytest.raises(CudaError, match="overwrites what may be in use"):
            x.copy_(torch.zeros(7, 8, device="cuda"))
        side = torch.cuda.Stream()
        torch.cuda.current_stream().synchronize()
        with torch.cuda.stream(side):
            x.copy_(torch.full((7, 8), 2.0, device="cuda"))
        assert x.cpu().max() == 1
        torch.cuda.current_stream().wait_event(side.record_event())
        assert x.cpu().min() == 2
        x.fill_(1)
        assert linear(x, torch.ones(8, 4, device="cuda"), None).cpu().tolist() == [[8.0] * 4] * 7
        batch = pack([[1, 2], [3, 4, 5], [6, 7]]).to("cuda")
        assert torch.allclose(pooled(x, batch.runs).cpu(), torch.full((3, 8), 8**-0.5))


def test_a_device_without_memory_is_an_overload_and_the_next_batch_works() -> None:
    calls: list[int] = []

    def compute(batch: Pack, traced: bool) -> Packed:
        texts = sum(run.sequences for run in batch.runs)
        calls.append(texts)
        if texts > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.")
        return Packed(torch.ones(texts, 4).to("cuda"), (), ())

    with pretended_cuda():
        with pytest.raises(OverloadError, match=r"out of memory: CUDA out of memory\. Ask again later"):
            pack_and_compute(compute, "cuda", [[1, 2]] * 3, False)
        assert pack_and_compute(compute, "cuda", [[1, 2]] * 2, False).vectors.device.type == "cpu"
    assert calls == [3, 2]


def test_products_that_torch_rounds_are_refused(routed_file: Path) -> None:
    model = tiny_routed()
    with pretended_cuda():
        encoder = encoder_of(model, tiny_tokenizer(), sha256={}, active=0.5, max_tokens=8, device="cuda")
        torch.set_float32_matmul_precision("high")
        try:
            for attempt in (lambda: load_encoder(str(routed_file), device="cuda"), lambda: encoder.encode(["oil"])):
                with pytest.raises(OptionError, match=r"is high in this process.*set_float32_matmul_precision"):
                    attempt()
        finally:
            torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("name", ["dense", "routed", "shallow"])
def test_a_machine_without_one_says_so(name: str) -> None:
    with pytest.raises(OptionError, match=r"finds no CUDA device on this machine\. Use the device 'cpu'"):
        load_encoder(name, device="cuda")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_what_cuda_does_not_compute_is_refused_with_what_it_does(precision: str) -> None:
    with pytest.raises(OptionError, match=rf"The device is 'cuda' with the precision '{precision}'; fp32 and bf16"):
        load_encoder("routed", device="cuda", precision=precision)


@pytest.mark.parametrize("name", ["dense", "routed", "shallow"])
def test_bfloat16_is_refused_on_the_cpu_with_what_to_take(name: str) -> None:
    with pytest.raises(OptionError, match=r"'cpu' with the precision 'bf16'.* the precision 'int8'"):
        load_encoder(name, precision="bf16")


def test_bfloat16_is_refused_where_it_would_be_another_arithmetic(routed_file: Path) -> None:
    with pretended_cuda():
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        try:
            with pytest.raises(OptionError, match=r"Leave torch.*allow_bf16_reduced_precision_reduction True"):
                load_encoder(str(routed_file), device="cuda", precision="bf16")
            load_encoder(str(routed_file), max_tokens=40, device="cuda")
        finally:
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
        with (
            patch("torch.cuda.is_bf16_supported", lambda including_emulation: including_emulation),
            pytest.raises(OptionError, match=r"has no arithmetic for it\. Use 'fp32'"),
        ):
            load_encoder(str(routed_file), device="cuda", precision="bf16")


def test_an_unknown_device_is_refused_with_the_known() -> None:
    with pytest.raises(OptionError, match="The device is 'tpu'; known are: cpu, cuda"):
        load_encoder("dense", device="tpu")


def test_the_id_tells_devices_apart(routed_file: Path) -> None:
    here = load_encoder(str(routed_file), active=0.5, max_tokens=40, threads=1).encoder_id
    options = {"active": 0.5, "max_tokens": 40, "device": "cuda"}
    with pretended_cuda():
        there = load_encoder(str(routed_file), **options).encoder_id
        in_half = load_encoder(str(routed_file), **options, precision="bf16").encoder_id
    assert there.startswith("routed0.5-cuda-40-")
    assert in_half.startswith("routed0.5-bf16-cuda-40-")
    assert here.startswith("routed0.5-40-")
    assert len({name.rsplit("-", 1)[1] for name in (here, there, in_half)}) == 3


def test_a_server_on_another_device_is_refused(engine_server: ServerProcess) -> None:
    assert connect(engine_server.url, name="dense", max_tokens=64, device="cpu").info["device"] == "cpu"
    with pytest.raises(OptionError, match="has device = 'cpu', the settings ask for 'cuda'"):
        connect(engine_server.url, name="dense", max_tokens=64, device="cuda")
