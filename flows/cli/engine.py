"""`siftline engine`: convert a dense model to a routed one, distill it, trace what a text makes it do, and serve it."""

from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import OptionError
from flows.cli.console import excerpt, out, print_table, say

if TYPE_CHECKING:
    from engine.build import Shape
    from engine.serving.config import ServerConfig


def shape_of(
    layers: str, heads: float | None, experts: int, shared_heads: int | None, shared_neurons: int | None
) -> "Shape":
    """What to keep of a dense model, as a person asks for it; see `engine.build.Shape`.

    Raises:
        OptionError: the layers are no numbers.
    """
    from engine.build import Shape

    try:
        kept = layers if layers in ("all", "third") else tuple(map(int, layers.split(",")))
    except ValueError as error:
        raise OptionError(
            f"--layers is '{layers}'; give all, third, or numbers with commas between them, as 0,2,3,5."
        ) from error
    return Shape(layers=kept, heads=heads, experts=experts, shared_heads=shared_heads, shared_neurons=shared_neurons)


def convert_model(source: Path | None, texts: list[Path], output: Path, shape: "Shape", seed: int) -> None:
    """Convert and print what came out."""
    from engine.build import convert_file

    config = convert_file(source, texts, output, shape, seed=seed)
    shares = zip(config.budgets, config.head_shares, config.expert_shares, strict=True)
    print_table(
        ["active", "heads per layer", "experts per token", "layer parameters"],
        [
            [
                f"{budget:g}",
                f"{config.shared_heads + heads * config.routed_heads:.1f} of {config.base.heads}",
                f"{experts * config.experts:.1f} of {config.experts}",
                f"{config.active_share(heads, experts):.1%}",
            ]
            for budget, heads, experts in shares
        ],
        title=f"{output}: {len(config.kept)} of {config.base.layers} layers",
    )
    out.print(
        "It is not trained yet; below active=1 its vectors are far from the parent's. Next: siftline engine distill"
    )


def distill_model(
    source: Path | None,
    texts: list[Path],
    output: Path,
    folder: Path,
    start: Path | None,
    shape: "Shape",
    steps: int,
    state_steps: int,
    rate: float,
    limit: int | None,
    seed: int,
    device: str,
) -> None:
    """Distill and print progress, one line per report."""
    from engine.build import distill_file
    from engine.recipe import Progress, Recipe

    def report(progress: Progress) -> None:
        left = (progress.steps - progress.step) * progress.seconds / max(1, progress.done)
        out.print(
            f"step {progress.step:,} of {progress.steps:,}   {progress.texts:,} texts   cosine to the parent "
            f"{progress.cosine:.4f}   loss {progress.loss:.4f}   {progress.tokens_per_s:,.0f} tokens/s   "
            f"{left / 60:.0f} min left"
        )

    distill_file(
        source,
        texts,
        output,
        folder,
        recipe=Recipe(steps=steps, state_steps=state_steps, rate=rate, seed=seed),
        shape=shape,
        start=start,
        limit=limit,
        device=device,
        report=report,
    )
    out.print(f"Written: {output}. Use it with --encoder {output}, or as [encoder] name in siftline.toml.")


def quantize_model(encoder: str, bits: int, output: Path) -> None:
    """Write the smaller file and say how to use it."""
    from engine.quantized_file import quantize_encoder

    size = quantize_encoder(encoder, bits, output)
    out.print(
        f"Written: {output}, {size / 1e6:.1f} MB. Use it with --encoder {output} --precision int{bits}, or as "
        f'[encoder] name and precision = "int{bits}" in siftline.toml.'
    )


def trace_texts(texts: list[str], encoder_name: str, active: float | None, precision: str) -> None:
    """Encode texts and print which heads and experts worked for each."""
    import json

    from engine.client import load_encoder

    encoding = load_encoder(encoder_name, active=active, precision=precision).encode(texts, trace=True)
    rows: list[list[object]] = []
    for text, tokens, share, route in zip(texts, encoding.tokens, encoding.active_frac, encoding.routes, strict=True):
        found = json.loads(route) if route else {}
        heads = " ".join(str(len(layer)) for layer in found.get("heads", []))
        experts = " ".join(f"{sum(layer) / int(tokens):.1f}" for layer in found.get("experts", []))
        multiplications = f"{found['multiplications'] / 1e6:.1f} M" if found else "-"
        rows.append([excerpt(text, 50), int(tokens), f"{share:.1%}", heads or "all", experts or "all", multiplications])
    columns = [
        "text",
        "tokens",
        "layer parameters",
        "routed heads by layer",
        "experts per token by layer",
        "multiplications",
    ]
    print_table(columns, rows)


def serve_encoder(
    name: str,
    config: "ServerConfig",
    *,
    active: float | None,
    precision: str,
    memory_budget_mib: int | None,
    max_tokens: int | None,
    device: str,
    threads: int | None,
    batch_tokens: int | None,
) -> None:
    """Load an encoder and serve it until SIGTERM."""
    from engine.client import load_encoder
    from engine.energy import best_meter
    from engine.local import LocalEncoder
    from engine.remote import info_name, info_sha256
    from engine.serving.app import Service
    from engine.serving.run import serve

    sha256 = info_sha256(name)  # before it is read: one that is replaced meanwhile is taken for another
    encoder = load_encoder(
        name,
        active=active,
        max_tokens=max_tokens,
        device=device,
        threads=threads,
        precision=precision,
        memory_budget=None if memory_budget_mib is None else memory_budget_mib << 20,
    )
    assert isinstance(encoder, LocalEncoder)
    if batch_tokens is not None:
        encoder.scheduler.batch_tokens = batch_tokens
    about = {
        "name": info_name(name),
        "sha256": sha256,
        "active": encoder.active,
        "default_active": encoder.default_active,
        "precision": precision,
        "device": device,
    }
    serve(Service(encoder, config, about, best_meter(device)), say)
