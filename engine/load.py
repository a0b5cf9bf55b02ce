"""Load an encoder by its name or from its file."""

from pathlib import Path

import numpy as np

from engine.errors import OptionError
from engine.protocol import ENCODERS, FLOAT, PRECISIONS, WITHOUT_BUDGET, Encoder


def load_encoder(
    name: str = "default",
    *,
    active: float | None = None,
    max_tokens: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    precision: str = "fp32",
    memory_budget: int | None = None,
) -> Encoder:
    """Load an encoder from the installed packages or from a file; nothing is fetched.

    Args:
        name: a key of `ENCODERS`, or the path of a file that `siftline engine convert`, `distill` or `quantize` wrote.
        active: budget of a routed encoder, one of those it has; when None, `DEFAULT_ACTIVE`, or everything where it has
            no such. Not for a dense or shallow one.
        max_tokens: longest text in tokens, [CLS] and [SEP] included; 256 when None, the model's own setting.
        device: one of `DEVICES`. Vectors of two devices differ in the last bits, so `encoder_id` does too.
        threads: worker threads; as many as torch uses when None, and 1 on "cuda". Results do not depend on it.
        precision: one of `PRECISIONS`; a quantised file has one only.
        memory_budget: most bytes of weights in the device's memory; with fewer than the model has, what is missing is
            read from its file for each batch, one batch at a time. Vectors and name stay the same. Not for 8 bits.

    Raises:
        OptionError: an argument is wrong, or this machine has no such device or precision.
        ModelFileError: the model is not installed, damaged or another one.
        OverloadError: the weights do not fit into the device's memory at present.
        WorkerError: this process is a fork of one that loaded an encoder, where torch would wait for ever.
    """
    if not _is_text(name):
        raise OptionError(f"The encoder's name is {name!r}; give text: {_known()}.")
    for what, given in (("max_tokens", max_tokens), ("threads", threads), ("memory_budget", memory_budget)):
        if given is not None and not _is_whole(given):
            raise OptionError(f"{what} is {given!r}; it must be a whole number.")
    file = name.endswith(".safetensors")
    if name not in ENCODERS and not file:
        raise OptionError(f"There is no encoder '{name}'. Known are: {_known()}.")
    if threads is not None and threads < 1:
        raise OptionError(f"threads is {threads}; it must be 1 or more.")
    if precision not in PRECISIONS:
        raise OptionError(f"The precision is '{precision}'; known are: {', '.join(PRECISIONS)}.")
    if memory_budget is not None and precision not in FLOAT:
        raise OptionError(
            f"The precision is '{precision}' and the memory budget {memory_budget}; only fp32 and bf16 weights are "
            "streamed. Leave one of the two out."
        )
    if device == "cuda" and precision not in FLOAT:
        raise OptionError(
            f"The device is 'cuda' with the precision '{precision}'; fp32 and bf16 compute there. Use one of them, or "
            "the device 'cpu'."
        )
    if device == "cpu" and precision == "bf16":
        raise OptionError(
            "The device is 'cpu' with the precision 'bf16'; a processor's bfloat16 products have other bits in other "
            "batches. Use the precision 'int8', which is faster there, or 'fp32', or the device 'cuda'."
        )
    # torch takes a second to import; commands that load no encoder must not pay for it.
    from engine.model.device import check_device, refuse_fork
    from engine.runtime.loading import load_dense, load_quantized, load_stored
    from engine.weights.quantized_file import is_quantized
    from engine.weights.shipped import shipped

    check_device(device, precision)
    refuse_fork()
    kind = None if file else ENCODERS[name]
    if kind in WITHOUT_BUDGET and active is not None:
        raise OptionError(f"active is {active}; the encoder '{name}' is dense and has no budget.")
    if kind == "dense":
        return load_dense(
            max_tokens=max_tokens, threads=threads, precision=precision, memory_budget=memory_budget, device=device
        )
    path, sha256 = (Path(name), None) if kind is None else shipped(kind)
    if kind is None and is_quantized(path):
        return load_quantized(path, active=active, max_tokens=max_tokens, threads=threads, precision=precision)
    return load_stored(
        path,
        sha256,
        active=active,
        max_tokens=max_tokens,
        threads=threads,
        precision=precision,
        memory_budget=memory_budget,
        device=device,
    )


def _known() -> str:
    return f"{', '.join(sorted(ENCODERS))}, or the path of a .safetensors file"


def _is_text(given: object) -> bool:
    return isinstance(given, str)


def _is_whole(given: object) -> bool:
    return isinstance(given, int | np.integer)
