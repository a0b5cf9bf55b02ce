"""`siftline engine`: convert a dense model to a routed one, distill it, trace what a text makes it do, and serve it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import OptionError
from flows.cli.console import excerpt, out, print_table, say

if TYPE_CHECKING:
    from engine.build import Shape


@dataclass(frozen=True, slots=True)
class ShapeOptions:
    """What to keep of a dense model, as a person asks for it; see `engine.build.Shape`."""

    layers: str
    heads: float | None
    experts: int
    shared_heads: int | None
    shared_neurons: int | None

    def shape(self) -> "Shape":
        """The shape.

        Raises:
            OptionError: the layers are no numbers.
        """
        from engine.build import Shape

        try:
            layers = self.layers if self.layers in ("all", "third") else tuple(map(int, self.layers.split(",")))
        except ValueError as error:
            raise OptionError(
                f"--layers is '{self.layers}'; give all, third, or numbers with commas between them, as 0,2,3,5."
            ) from error
        return Shape(
            layers=layers,
            heads=self.heads,
            experts=self.experts,
            shared_heads=self.shared_heads,
            shared_neurons=self.shared_neurons,
        )


def convert_model(source: Path | None, texts: list[Path], output: Path, shape: ShapeOptions, seed: int) -> None:
    """Convert and print what came out."""
    from engine.build import convert_file

    config = convert_file(source, texts, output, shape.shape(), seed=seed)
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
    shape: ShapeOptions,
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
        shape=shape.shape(),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """Options of `siftline engine serve`; limits are those of `engine.serving.config.ServerConfig`."""

    encoder: str
    active: float | None
    precision: str
    memory_budget_mib: int | None
    max_tokens: int | None
    device: str
    threads: int | None
    host: str
    port: int
    batch_tokens: int | None
    queue_texts: int
    queue_tokens: int
    max_inputs: int
    max_body_bytes: int
    max_connections: int
    deadline_s: float
    idle_s: float
    drain_s: float


def serve_encoder(options: ServeOptions) -> None:
    """Load an encoder and serve it until SIGTERM."""
    from engine.key import key_from_environment
    from engine.request import Room
    from engine.serving.config import ServerConfig

    config = ServerConfig(
        host=options.host,
        port=options.port,
        key=key_from_environment(),
        room=Room(entries=options.queue_texts, tokens=options.queue_tokens),
        max_inputs=options.max_inputs,
        max_body_bytes=options.max_body_bytes,
        max_connections=options.max_connections,
        deadline_s=options.deadline_s,
        idle_s=options.idle_s,
        drain_s=options.drain_s,
    )
    from engine.client import load_encoder
    from engine.energy import best_meter
    from engine.local import LocalEncoder
    from engine.remote import info_name, info_sha256
    from engine.serving.app import Service
    from engine.serving.run import serve

    sha256 = info_sha256(options.encoder)  # before it is read: one that is replaced meanwhile is taken for another
    encoder = load_encoder(
        options.encoder,
        active=options.active,
        max_tokens=options.max_tokens,
        device=options.device,
        threads=options.threads,
        precision=options.precision,
        memory_budget=None if options.memory_budget_mib is None else options.memory_budget_mib << 20,
    )
    assert isinstance(encoder, LocalEncoder)
    if options.batch_tokens is not None:
        encoder.scheduler.batch_tokens = options.batch_tokens
    about = {
        "name": info_name(options.encoder),
        "sha256": sha256,
        "active": encoder.active,
        "default_active": encoder.default_active,
        "precision": options.precision,
        "device": options.device,
    }
    serve(Service(encoder, config, about, best_meter(options.device)), say)
