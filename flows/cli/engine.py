"""`siftline engine`: convert a dense model to a routed one, distill it, quantize it, trace a text, and serve it.

All that takes long to import is imported inside the commands; the rest of them is in `flows.cli.commands`.
"""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from engine.errors import OptionError
from flows.cli.terminal.console import excerpt, out, print_table, say
from flows.cli.terminal.options import ending_in, group_of

if TYPE_CHECKING:
    from engine.training.jobs import Shape

app = group_of(help="The encoder: convert, distill, quantize, trace, serve.")


SourceOption = Annotated[
    Path | None, typer.Option("--from", help="Hugging Face folder of the dense parent; left out: all-MiniLM-L6-v2.")
]
TextsOption = Annotated[
    list[Path], typer.Option("--text", help="File of texts, one per line, also .gz; may be repeated.")
]
SafetensorsOption = Annotated[
    Path, typer.Option("--output", "-o", callback=ending_in(".safetensors"), help="A file, ending in .safetensors.")
]
LayersOption = Annotated[
    str,
    typer.Option(
        help="Layers of the parent to keep: all, third (the first and the last among them), or such as 0,2,3,5."
    ),
]
HeadsOption = Annotated[
    float | None,
    typer.Option(min=1, help="Heads of a layer that work on average at active=0.3; left out: balanced."),
]
ExpertsOption = Annotated[int, typer.Option(min=2, help="Experts per layer.")]
SharedHeadsOption = Annotated[
    int | None, typer.Option(min=0, help="Heads of a layer that always work; left out: half of them.")
]
SharedNeuronsOption = Annotated[
    int | None, typer.Option(min=0, help="Neurons of a layer that always work; left out: an eighth of them, about.")
]
BudgetOption = Annotated[
    float | None, typer.Option(help="Budget of a routed encoder, such as 0.2, 0.5 or 1; left out: 0.3.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Fixes everything random.")]


def _shape_of(
    layers: str, heads: float | None, experts: int, shared_heads: int | None, shared_neurons: int | None
) -> "Shape":
    """What to keep of a dense model, as a person asks for it; see `engine.training.jobs.Shape`.

    Raises:
        OptionError: the layers are no numbers.
    """
    from engine.training.jobs import Shape

    try:
        kept = layers if layers in ("all", "third") else tuple(map(int, layers.split(",")))
    except ValueError as error:
        raise OptionError(
            f"--layers is '{layers}'; give all, third, or numbers with commas between them, as 0,2,3,5."
        ) from error
    return Shape(layers=kept, heads=heads, experts=experts, shared_heads=shared_heads, shared_neurons=shared_neurons)


@app.command(
    "convert", epilog="Example: siftline engine convert --from my-model --text texts.txt --output routed.safetensors"
)
def engine_convert(
    text: TextsOption,
    output: SafetensorsOption,
    source: SourceOption = None,
    layers: LayersOption = "all",
    heads: HeadsOption = None,
    experts: ExpertsOption = 14,
    shared_heads: SharedHeadsOption = None,
    shared_neurons: SharedNeuronsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Cut a dense model of the BERT family into routed heads and experts; nothing is trained."""
    from engine.training.jobs import convert_file

    shape = _shape_of(layers, heads, experts, shared_heads, shared_neurons)
    config = convert_file(source, text, output, shape, seed=seed)
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
    parent = [] if source is None else ["--from", str(source)]
    read = [word for path in text for word in ("--text", str(path))]
    begun = ["--start", str(output), "--output", str(output.with_name(f"trained-{output.name}"))]
    out.print(
        "It is not trained yet; below active=1 its vectors are far from the parent's. "
        f"Next: {shlex.join(['siftline', 'engine', 'distill', *parent, *read, *begun])}"
    )


@app.command(
    "distill", epilog="Example: siftline engine distill --text texts.txt --output routed.safetensors --steps 2000"
)
def engine_distill(
    text: TextsOption,
    output: SafetensorsOption,
    work: Annotated[Path, typer.Option(help="Folder for checkpoints; the same one goes on where it stopped.")] = Path(
        "distill-work"
    ),
    source: SourceOption = None,
    start: Annotated[
        Path | None,
        typer.Option(help="Go on from this routed file, or convert this shallow one, instead of the parent."),
    ] = None,
    layers: LayersOption = "third",
    heads: HeadsOption = None,
    experts: ExpertsOption = 14,
    shared_heads: SharedHeadsOption = None,
    shared_neurons: SharedNeuronsOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of about 4,096 tokens.")] = 6500,
    state_steps: Annotated[
        int | None,
        typer.Option(min=0, help="First steps that also learn single tokens' states; left out: 2450, with --start 0."),
    ] = None,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 6e-4,
    limit: Annotated[int | None, typer.Option(min=20, help="Texts to read at most.")] = None,
    seed: SeedOption = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to train.")] = "cpu",
) -> None:
    """Train a routed encoder toward its dense parent's vectors; no labels are needed."""
    from engine.training.jobs import distill_file
    from engine.training.schedule import Progress, Recipe

    def report(progress: Progress) -> None:
        left = (progress.steps - progress.step) * progress.seconds / max(1, progress.done)
        out.print(
            f"step {progress.step:,} of {progress.steps:,}   {progress.texts:,} texts   cosine to the parent "
            f"{progress.cosine:.4f}   loss {progress.loss:.4f}   {progress.tokens_per_s:,.0f} tokens/s   "
            f"{left / 60:.0f} min left"
        )

    if state_steps is None:
        state_steps = 2450 if start is None else 0
    distill_file(
        source,
        text,
        output,
        work,
        recipe=Recipe(steps=steps, state_steps=state_steps, rate=rate, seed=seed),
        shape=_shape_of(layers, heads, experts, shared_heads, shared_neurons),
        start=start,
        limit=limit,
        device=device,
        report=report,
    )
    out.print(f"Written: {output}. Use it with --encoder {output}, or as [encoder] name in siftline.toml.")


@app.command(
    "quantize", epilog="Example: siftline engine quantize --encoder routed --bits 4 --output small.safetensors"
)
def engine_quantize(
    output: SafetensorsOption,
    encoder: Annotated[str, typer.Option(help="Encoder: routed, shallow, dense, or a .safetensors file.")] = "routed",
    bits: Annotated[int, typer.Option(min=4, max=8, help="Bits of a weight: 8 or 4.")] = 4,
) -> None:
    """Write a smaller file of an encoder in 8 or 4 bits; nothing is trained."""
    from engine.weights.quantized_file import quantize_encoder

    size = quantize_encoder(encoder, bits, output)
    out.print(
        f"Written: {output}, {size / 1e6:.1f} MB. Use it with --encoder {output} --precision int{bits}, or as "
        f'[encoder] name and precision = "int{bits}" in siftline.toml.'
    )


@app.command("trace", epilog='Example: siftline engine trace "Oil rose." "Wheat fell on better weather."')
def engine_trace(
    texts: Annotated[list[str], typer.Argument(help="Texts.")],
    encoder: Annotated[str, typer.Option(help="Encoder: routed, shallow, dense, or a .safetensors file.")] = "routed",
    active: BudgetOption = None,
    precision: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "fp32",
) -> None:
    """Show which heads and experts work for a text, and what that costs."""
    from engine.load import load_encoder

    encoding = load_encoder(encoder, active=active, precision=precision).encode(texts, trace=True)
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


@app.command("serve", epilog="Example: siftline engine serve --encoder routed --port 8180")
def engine_serve(
    encoder: Annotated[
        str, typer.Option(help="Encoder: default, routed, shallow, dense, or a .safetensors file.")
    ] = "default",
    active: BudgetOption = None,
    precision: Annotated[str, typer.Option(help="fp32, int8 or int4; bf16 on cuda.")] = "fp32",
    memory_budget: Annotated[
        int | None,
        typer.Option(min=1, help="Most MiB of weights in memory, the rest is read for each batch; left out: all."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=3, help="Cut texts after this many tokens; left out: 256.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute; cuda in fp32 or bf16.")] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Batches computed at a time, one core each; left out: one for each core."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; one that is not loopback needs SIFTLINE_ENGINE_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8180,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of a batch; left out: 1024, and 8192 on cuda.")
    ] = None,
    queue_texts: Annotated[int, typer.Option(min=1, help="Texts that may wait; more are refused with 429.")] = 4096,
    queue_tokens: Annotated[int, typer.Option(min=1, help="Tokens that may wait.")] = 65536,
    max_inputs: Annotated[int, typer.Option(min=1, help="Most texts in a request.")] = 512,
    max_body_bytes: Annotated[int, typer.Option(min=1, help="Largest request.")] = 2 << 20,
    max_connections: Annotated[int, typer.Option(min=1, help="Most connections.")] = 8192,
    deadline: Annotated[float, typer.Option(help="Seconds after which a request is refused with 504.")] = 30.0,
    idle: Annotated[float, typer.Option(help="Seconds after which a silent connection is closed.")] = 15.0,
    drain: Annotated[float, typer.Option(help="Seconds left for admitted requests after SIGTERM.")] = 10.0,
) -> None:
    """Serve an encoder over HTTP: OpenAI's /v1/embeddings and text-embeddings-inference's /embed."""
    from engine.client.api_key import key_from_environment
    from engine.client.remote import info_name, info_sha256
    from engine.load import load_encoder
    from engine.runtime.energy import best_meter
    from engine.runtime.local import LocalEncoder
    from engine.runtime.request import Room
    from engine.serving.app import Service
    from engine.serving.config import ServerConfig
    from engine.serving.run import serve

    config = ServerConfig(
        host=host,
        port=port,
        key=key_from_environment(),
        room=Room(entries=queue_texts, tokens=queue_tokens),
        max_inputs=max_inputs,
        max_body_bytes=max_body_bytes,
        max_connections=max_connections,
        deadline_s=deadline,
        idle_s=idle,
        drain_s=drain,
    )
    sha256 = info_sha256(encoder)  # before it is read: one that is replaced meanwhile is taken for another
    loaded = load_encoder(
        encoder,
        active=active,
        max_tokens=max_tokens,
        device=device,
        threads=threads,
        precision=precision,
        memory_budget=None if memory_budget is None else memory_budget << 20,
    )
    assert isinstance(loaded, LocalEncoder)
    if batch_tokens is not None:
        loaded.scheduler.batch_tokens = batch_tokens
    about = {
        "name": info_name(encoder),
        "sha256": sha256,
        "active": loaded.active,
        "default_active": loaded.default_active,
        "default_max_tokens": loaded.default_max_tokens,
        "precision": precision,
        "device": device,
    }
    serve(Service(loaded, config, about, best_meter(device)), say)
