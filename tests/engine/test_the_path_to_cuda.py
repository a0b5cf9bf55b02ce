"""What a machine without CUDA can say of `device="cuda"`: the code of the CPU computes the same vectors when its
tensors say that they are on CUDA, nothing is left on the wrong device, no sum has an order that depends on the batch,
and what cannot be done is refused in words. `test_cuda.py` is for machines that have such a device."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.client import load_encoder
from engine.device import CUDA_BATCH_TOKENS, CUDA_ROWS
from engine.dispatch import combine, dispatch
from engine.encoder import Pack, pack, pooled
from engine.errors import OptionError, OverloadError
from engine.loading import routed_client
from engine.local import LocalEncoder, pack_and_compute
from engine.products import linear
from engine.remote import connect
from engine.request import Packed
from engine.routed_file import write_routed
from engine.streaming import TensorFile, load_dense_model
from tests.engine.pretended_cuda import CudaError, pretended_cuda
from tests.engine.texts import make_texts
from tests.engine.tiny import (
    BASE,
    tiny_routed,
    tiny_routed_config,
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
    with pretended_cuda() as let_in:
        encoder = load_encoder(str(routed_file), active=0.5, max_tokens=40, device="cuda")
        assert isinstance(encoder, LocalEncoder)
        let_in(encoder)
        there = encoder.embed(TEXTS)
        assert encoder.scheduler.batch_tokens == CUDA_BATCH_TOKENS
        assert np.abs(there.vectors - here.vectors).max() < CLOSE
        assert there.routes == here.routes
        for chosen in ([3], [17, 40, 43], range(0, 44, 2)):
            assert np.array_equal(encoder.encode([TEXTS[index] for index in chosen]), there.vectors[list(chosen)])


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
    with pretended_cuda() as let_in:
        encoder = routed_client(model, tiny_tokenizer(), sha256={}, active=0.5, max_tokens=8, device="cuda")
        let_in(encoder)
        torch.set_float32_matmul_precision("high")
        try:
            for attempt in (lambda: load_encoder(str(routed_file), device="cuda"), lambda: encoder.encode(["oil"])):
                with pytest.raises(OptionError, match=r"is high in this process.*set_float32_matmul_precision"):
                    attempt()
        finally:
            torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("name", ["dense", "routed"])
def test_a_machine_without_one_says_so(name: str) -> None:
    with pytest.raises(OptionError, match=r"finds no CUDA device on this machine\. Use the device 'cpu'"):
        load_encoder(name, device="cuda")


@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"precision": "int4"}, {"memory_budget": 40 << 20}], ids=str
)
def test_what_cuda_does_not_compute_is_refused_with_what_it_does(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=r"The device is 'cuda' with .*the precision 'fp32' without a memory budget"):
        load_encoder("routed", device="cuda", **options)  # type: ignore[arg-type]


def test_an_unknown_device_is_refused_with_the_known() -> None:
    with pytest.raises(OptionError, match="The device is 'tpu'; known are: cpu, cuda"):
        load_encoder("dense", device="tpu")


def test_the_id_tells_devices_apart(routed_file: Path) -> None:
    here = load_encoder(str(routed_file), active=0.5, max_tokens=40, threads=1).encoder_id
    with pretended_cuda():
        there = load_encoder(str(routed_file), active=0.5, max_tokens=40, device="cuda").encoder_id
    assert there.startswith("routed0.5-cuda-40-")
    assert here.startswith("routed0.5-40-")
    assert there.rsplit("-", 1)[1] != here.rsplit("-", 1)[1]


def test_a_server_on_another_device_is_refused(engine_server: ServerProcess) -> None:
    assert connect(engine_server.url, name="dense", device="cpu").info["device"] == "cpu"
    with pytest.raises(OptionError, match="has device = 'cpu', the settings ask for 'cuda'"):
        connect(engine_server.url, name="dense", device="cuda")
