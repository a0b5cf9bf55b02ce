"""The control of continuous batching: the same model behind a plain HTTP application, with padded fixed batches.

    python -m benchmarks.serving.static_server --batch 32 --wait-ms 10 --port 8080

A batch leaves when it is full or its first text has waited long enough; all its texts are padded to the longest, and
computed with torch's own threads; the next batch forms meanwhile and waits. So do most servers of encoders by default.
"""

import argparse
import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import numpy as np
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from torch.nn import functional

from engine.model.dense import DenseEncoder
from engine.model.tokenizer import TextTokenizer
from engine.protocol import DEVICES
from engine.weights.in_memory import dense_encoder
from engine.weights.shipped import read_minilm


@torch.inference_mode()
def padded_vectors(model: DenseEncoder, sequences: list[list[int]], device: str) -> np.ndarray:
    """Unit vectors over a rectangle of tokens with a mask, as usual libraries compute them."""
    longest = max(map(len, sequences))
    ids_SL = torch.zeros(len(sequences), longest, dtype=torch.int64)
    mask_SL = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, ids in enumerate(sequences):
        ids_SL[row, : len(ids)] = torch.tensor(ids)
        mask_SL[row, : len(ids)] = True
    ids_SL, mask_SL = ids_SL.to(device), mask_SL.to(device)
    x_SLD = model.norm(model.tokens(ids_SL) + model.positions.weight[:longest])
    for layer in model.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        shape = (len(sequences), longest, attention.heads, attention.head_width)
        parts = _linear(x_SLD, attention.qkv).chunk(3, dim=2)
        q_SHLW, k_SHLW, v_SHLW = (part.reshape(shape).transpose(1, 2) for part in parts)
        mask = mask_SL[:, None, None, :]
        mixed_SHLW = functional.scaled_dot_product_attention(q_SHLW, k_SHLW, v_SHLW, attn_mask=mask)
        x_SLD = layer.attention_norm(x_SLD + _linear(mixed_SHLW.transpose(1, 2).flatten(2), attention.output))
        hidden_SLF = functional.gelu(_linear(x_SLD, feed_forward.up))
        x_SLD = layer.feed_forward_norm(x_SLD + _linear(hidden_SLF, feed_forward.down))
    weights_SL = mask_SL.float() / mask_SL.sum(dim=1, keepdim=True)
    means_SD = torch.einsum("sl,sld->sd", weights_SL, x_SLD)
    return (means_SD / means_SD.norm(dim=1, keepdim=True)).cpu().numpy()


def _linear(x: torch.Tensor, map_: torch.nn.Module) -> torch.Tensor:
    return functional.linear(x, map_.weight.t(), map_.bias)  # type: ignore[union-attr, operator, arg-type]


def application(given: argparse.Namespace) -> Starlette:
    """The server: texts wait in a queue, one loop takes batches of a fixed number from it."""
    files = read_minilm()
    model = dense_encoder(files.config, files.tensors).to(given.device)
    tokenizer = TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=given.max_tokens)
    waiting: asyncio.Queue[tuple[list[int], float, asyncio.Future[np.ndarray]]] = asyncio.Queue()

    async def embeddings(request: Request) -> JSONResponse:
        texts = (await request.json())["input"]
        futures: list[asyncio.Future[np.ndarray]] = []
        for encoded in tokenizer.encode([texts] if isinstance(texts, str) else texts):
            futures.append(asyncio.get_running_loop().create_future())
            waiting.put_nowait((list(encoded.ids), time.monotonic(), futures[-1]))
        rows = await asyncio.gather(*futures)
        data = [{"index": i, "embedding": b64encode(row.tobytes()).decode()} for i, row in enumerate(rows)]
        return JSONResponse({"data": data})

    async def serve_batches() -> None:
        while True:
            batch = [await waiting.get()]
            leaves_at = batch[0][1] + given.wait_ms / 1000
            while len(batch) < given.batch:
                try:
                    left = 0 if waiting.qsize() else max(0.0, leaves_at - time.monotonic())
                    batch.append(waiting.get_nowait() if not left else await asyncio.wait_for(waiting.get(), left))
                except (asyncio.QueueEmpty, TimeoutError):
                    break
            ids = [ids for ids, _, _ in batch]
            vectors = await asyncio.to_thread(padded_vectors, model, ids, given.device)
            for (_, _, future), vector in zip(batch, vectors, strict=True):
                if not future.done():
                    future.set_result(vector.astype("<f4"))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        task = asyncio.create_task(serve_batches())
        yield
        task.cancel()

    return Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--wait-ms", type=float, default=10.0)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=DEVICES)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    uvicorn.run(application(given), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
