"""The control of continuous batching: the same model and the same HTTP, with batches of a fixed number, padded.

    python -m benchmarks.static_server --batch 32 --wait-ms 10 --port 0

A batch leaves when it is full or its first text has waited long enough; all its texts are padded to the longest, and
computed with torch's own threads; the next batch forms meanwhile and waits. So do most servers of encoders by default.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn import functional

from engine.load import load_encoder
from engine.model.dense import DenseEncoder
from engine.protocol import DEVICES
from engine.runtime.batching import Scheduler
from engine.runtime.local import LocalEncoder
from engine.runtime.request import Packed, Request
from engine.serving.app import Service
from engine.serving.config import ServerConfig
from engine.serving.run import serve
from engine.weights.in_memory import dense_encoder
from engine.weights.shipped import read_minilm


class PaddedDense:
    """The dense encoder over a rectangle of tokens with a mask, as usual libraries compute it."""

    def __init__(self, model: DenseEncoder, device: str) -> None:
        self.model, self.device = model.to(device), device

    @torch.inference_mode()
    def __call__(self, sequences: list[list[int]], traced: bool) -> Packed:
        """Unit vectors of the texts."""
        model = self.model
        longest = max(map(len, sequences))
        ids_SL = torch.zeros(len(sequences), longest, dtype=torch.int64)
        mask_SL = torch.zeros(len(sequences), longest, dtype=torch.bool)
        for row, ids in enumerate(sequences):
            ids_SL[row, : len(ids)] = torch.tensor(ids)
            mask_SL[row, : len(ids)] = True
        ids_SL, mask_SL = ids_SL.to(self.device), mask_SL.to(self.device)
        x_SLD = model.norm(model.tokens(ids_SL) + model.positions.weight[:longest])
        for layer in model.layers:
            attention, feed_forward = layer.attention, layer.feed_forward
            qkv_SLE = _linear(x_SLD, attention.qkv)
            shape = (len(sequences), longest, attention.heads, attention.head_width)
            q_SHLW, k_SHLW, v_SHLW = (part.reshape(shape).transpose(1, 2) for part in qkv_SLE.chunk(3, dim=2))
            mixed_SHLW = functional.scaled_dot_product_attention(
                q_SHLW, k_SHLW, v_SHLW, attn_mask=mask_SL[:, None, None, :]
            )
            x_SLD = layer.attention_norm(x_SLD + _linear(mixed_SHLW.transpose(1, 2).flatten(2), attention.output))
            hidden_SLF = functional.gelu(_linear(x_SLD, feed_forward.up))
            x_SLD = layer.feed_forward_norm(x_SLD + _linear(hidden_SLF, feed_forward.down))
        weights_SL = mask_SL.float() / mask_SL.sum(dim=1, keepdim=True)
        means_SD = torch.einsum("sl,sld->sd", weights_SL, x_SLD)
        vectors = means_SD / means_SD.norm(dim=1, keepdim=True)
        return Packed(vectors.cpu(), [1.0] * len(sequences), [""] * len(sequences))


def _linear(x: torch.Tensor, map_: torch.nn.Module) -> torch.Tensor:
    return functional.linear(x, map_.weight.t(), map_.bias)  # type: ignore[union-attr, operator, arg-type]


class StaticScheduler(Scheduler):
    """First come, first served, in batches of a fixed number of texts.

    Args:
        compute, workers, dimension: as in `Scheduler`.
        batch: texts of a full batch.
        wait_s: the first text of a batch that does not fill up waits so long.
    """

    def __init__(self, compute: PaddedDense, workers: ThreadPoolExecutor, *, dimension: int, batch: int, wait_s: float):
        self._batch, self._wait_s = batch, wait_s
        super().__init__(compute, workers, slots=1, dimension=dimension)

    def _leaves_at(self) -> float | None:
        return next(iter(self._ring)).began + self._wait_s if self._ring else None

    def _ready(self) -> bool:
        if self._dead is not None:
            return True
        leaves_at = self._leaves_at()
        if self._running or leaves_at is None:
            return False
        return self._entries >= self._batch or time.monotonic() >= leaves_at

    def _until_deadline(self) -> float | None:
        leaves_at = None if self._running else self._leaves_at()
        moments = [moment for moment in (leaves_at, self._deadlines[0][0] if self._deadlines else None) if moment]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _take(self) -> list[tuple[Request, int]]:
        batch: list[tuple[Request, int]] = []
        while self._ring and len(batch) < self._batch:
            request = next(iter(self._ring))
            batch.append((request, request.waiting.popleft()))
            self._entries -= 1
            self._tokens -= len(request.sequences[batch[-1][1]])
            if not request.waiting:
                del self._ring[request]
        return batch


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--wait-ms", type=float, default=10.0)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=DEVICES)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = load_encoder("dense", max_tokens=arguments.max_tokens, threads=1)
    assert isinstance(encoder, LocalEncoder)
    files = read_minilm()
    encoder.scheduler = StaticScheduler(
        PaddedDense(dense_encoder(files.config, files.tensors), arguments.device),
        ThreadPoolExecutor(1),
        dimension=encoder.dimension,
        batch=arguments.batch,
        wait_s=arguments.wait_ms / 1000,
    )
    encoder.encoder_id = f"static-{encoder.encoder_id}"
    serve(
        Service(encoder, ServerConfig(port=arguments.port), {"name": "static"}),
        lambda line: print(line, file=sys.stderr, flush=True),
    )


if __name__ == "__main__":
    main()
