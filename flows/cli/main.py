"""The `siftline` command: it parses, calls and prints; it decides nothing.

Heavy packages are imported inside the commands, so that `--help` answers at once.

Exit codes: 0 done; 1 a defect of Siftline; 2 something the user can mend (the message says how); 3 a service or a
lock is away, the same command may work later; 130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli import console
from flows.cli.groups import engine, export, lf, samples, studio
from flows.cli.options import AtOption, ForceOption, OutputOption, ProjectOption
from warehouse import SiftlineError, Transient

app = typer.Typer(
    name="siftline",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From raw records to a labelled data set for the fewest human hours.",
    epilog="Start with: siftline init my-project --sample reuters-r8",
)
for _name, _group in (
    ("export", export),
    ("lf", lf),
    ("engine", engine),
    ("samples", samples),
    ("studio", studio),
):
    app.add_typer(_group.app, name=_name)

_INTERRUPTED = "interrupted; what was committed is kept, run again to go on"
# Click's base of all usage errors; typer may carry a click of its own, so it is reached through typer.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[2]


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from warehouse import siftline_version

        print(f"siftline {siftline_version()}")
        raise typer.Exit


def main() -> None:
    """Run the command and turn errors into messages and exit codes."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns the exit code."""
    import duckdb

    from engine.errors import EngineError, UnavailableError

    try:
        code = app(arguments, standalone_mode=False)
    except _USAGE_ERROR as error:
        error.show()
        return 2
    except (typer.Abort, KeyboardInterrupt):
        console.say(_INTERRUPTED)
        return 130
    except BrokenPipeError:
        return 0
    except (SiftlineError, EngineError) as error:
        console.say(f"siftline: {error}")
        return 3 if isinstance(error, Transient | UnavailableError) else 2
    except RuntimeError as error:
        if "Query interrupted" not in str(error):  # DuckDB's word when a signal reaches it in a query
            raise
        console.say(_INTERRUPTED)
        return 130
    except duckdb.Error as error:
        console.say(
            f"siftline: the warehouse cannot be read: {error}\nIf a file below its folder is damaged or missing, bring "
            "it back from a backup; or move the folder away, and `siftline run` builds a new one from the sources."
        )
        return 2
    except OSError as error:
        console.say(f"siftline: {error}. Check that the place exists, has space and may be written.")
        return 2
    return code if isinstance(code, int) else 0


@app.command(epilog="Example: siftline init my-project --source comments.csv --text body --classes spam,ham")
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new project.")],
    classes: Annotated[str, typer.Option(help="Class names, separated by commas.")] = "",
    source: Annotated[Path | None, typer.Option(help="File with your records: Parquet, CSV, TSV or JSONL.")] = None,
    text: Annotated[str, typer.Option(help="Column or field that holds the text.")] = "text",
    id: Annotated[str, typer.Option(help="Column or field that holds your id; left out, ids are made.")] = "",
    sample: Annotated[str, typer.Option(help="Start from a sample instead; see `siftline samples list`.")] = "",
) -> None:
    """Make a project: a commented siftline.toml and a file for labeling functions."""
    from flows.cli.init import init_project

    init_project(folder, classes=classes, source=source, text=text, id_field=id or None, sample=sample or None)


@app.command(epilog="Example: siftline run --annotator simulated")
def run(
    project: ProjectOption = Path(),
    annotator: Annotated[
        Literal["people", "simulated"], typer.Option(help="Who answers: people, or the sample's gold column.")
    ] = "people",
    passes: Annotated[int | None, typer.Option(min=1, help="Stop after this many passes over the stages.")] = None,
) -> None:
    """Run the pipeline until there is nothing left to do or people have to answer."""
    from flows.cli.run import run_project

    run_project(project, simulated=annotator == "simulated", max_passes=passes)


@app.command(epilog="Example: siftline status --project examples/reuters")
def status(project: ProjectOption = Path()) -> None:
    """Show what is in the warehouse, what ran last and what waits for people."""
    from flows.cli.look import show_status

    show_status(project)


@app.command(epilog="Example: siftline report --output report.html")
def report(
    project: ProjectOption = Path(),
    output: Annotated[Path | None, typer.Option(help="File to write; report.html in the project if left out.")] = None,
) -> None:
    """Write the report: one HTML page that needs no network."""
    from flows.cli.look import make_report

    make_report(project, output)


@app.command(epilog='Example: siftline sql -c "select label, count(*) from training_set group by label"')
def sql(
    query: Annotated[str, typer.Argument(help="SQL to run; left out, it is read from a prompt or a pipe.")] = "",
    project: ProjectOption = Path(),
    format: Annotated[
        Literal["table", "csv", "json", "parquet"],
        typer.Option(help="csv: a ' stands before cells a spreadsheet would take for a formula; json: one per line."),
    ] = "table",
    command: Annotated[str, typer.Option("--command", "-c", help="The same as QUERY.")] = "",
    at: AtOption = "",
    output: OutputOption = None,
    force: ForceOption = False,
    attach: Annotated[bool, typer.Option("--attach", help="Print the lines for any other DuckDB client.")] = False,
) -> None:
    """Ask the warehouse in SQL, read-only, also while a run writes, also as it was."""
    from flows.cli.sql import print_attach, run_sql

    if attach:
        print_attach(project, at or None)
    else:
        run_sql(project, query, command, format, at=at or None, output=output, force=force)


@app.command(epilog="Example: siftline questions decayed-functions")
def questions(
    name: Annotated[str, typer.Argument(help="Question to answer; left out, all are listed.")] = "",
    project: ProjectOption = Path(),
    format: Annotated[Literal["table", "csv", "json", "parquet"], typer.Option(help="As in siftline sql.")] = "table",
    at: AtOption = "",
    output: OutputOption = None,
    force: ForceOption = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the query, to change it.")] = False,
) -> None:
    """Answer what data scientists ask of every project, and say how to read it."""
    from flows.cli.questions import answer_question, list_questions

    if name:
        answer_question(project, name, format, at=at or None, output=output, force=force, sql=sql)
    else:
        list_questions()


@app.command("snapshots", epilog="Example: siftline snapshots --limit 5")
def list_history(
    project: ProjectOption = Path(),
    limit: Annotated[int, typer.Option(min=1, help="How many to show, the newest first.")] = 20,
) -> None:
    """List the kept snapshots: number, time, author, message and rows."""
    from flows.cli.history import list_snapshots

    list_snapshots(project, limit)


@app.command(epilog="Example: siftline diff 4 9")
def diff(
    before: Annotated[str, typer.Argument(help="Snapshot number or time.")],
    after: Annotated[str, typer.Argument(help="The same; left out: the newest.")] = "",
    project: ProjectOption = Path(),
    limit: Annotated[int, typer.Option(min=0, help="How many changed labels to show.")] = 20,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for all of them: .csv, .jsonl or .parquet.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Show which labels changed between two snapshots, and why."""
    from flows.cli.history import show_diff

    show_diff(project, before, after or None, limit, output, force=force)


@app.command(epilog="Example: siftline suspects --limit 50")
def suspects(
    limit: Annotated[int, typer.Option(min=1, help="How many labels are shown.")] = 20,
    project: ProjectOption = Path(),
) -> None:
    """Show labels that are probably wrong: model and neighbours, which never saw them, prefer another class."""
    from flows.cli.look import show_suspects

    show_suspects(project, limit)


@app.command(epilog="Example: siftline queue --next 20")
def queue(
    action: Annotated[
        Literal["show", "reconcile"], typer.Argument(help="show, or reconcile with the service.")
    ] = "show",
    project: ProjectOption = Path(),
    next: Annotated[int, typer.Option(min=0, help="How many of the next tasks to show.")] = 10,
) -> None:
    """Show the annotation queue, or mend differences between it and the annotation service."""
    from flows.cli.look import reconcile_queue, show_queue

    if action == "reconcile":
        reconcile_queue(project)
    else:
        show_queue(project, next)


@app.command(epilog="Example: siftline collect")
def collect(project: ProjectOption = Path()) -> None:
    """Fetch the answers of annotators; `siftline run` learns from them."""
    from flows.cli.look import collect_answers

    collect_answers(project)


@app.command(epilog="Example: siftline embed --input texts.jsonl --text-field text --output vectors.parquet")
def embed(
    input: Annotated[Path, typer.Option(help="Parquet, CSV, TSV or JSONL, the text formats also as .gz.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write: id, vector.")],
    text_field: Annotated[str, typer.Option(help="Column or field that holds the text.")] = "text",
    id_field: Annotated[str, typer.Option(help="Column or field that holds the id; left out: the row number.")] = "",
    encoder: Annotated[str, typer.Option(help="Encoder: default, routed, dense, or a .safetensors file.")] = "default",
    active: Annotated[
        float | None, typer.Option(help="Budget of a routed encoder, such as 0.2, 0.3, 0.5 or 1.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Cut texts after this many tokens.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "fp32",
) -> None:
    """Turn any file of texts into vectors; needs no project."""
    from flows.cli.embed import embed_texts

    embed_texts(input, output, text_field, id_field or None, encoder, active, max_tokens, precision)


@app.command(epilog="Example: siftline maintain --expire-older-than 90")
def maintain(
    project: ProjectOption = Path(),
    expire_older_than: Annotated[
        float | None, typer.Option(min=0, help="Give up snapshots older than this many days; left out, all are kept.")
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Hours that files nobody needs are kept for readers.")] = 24.0,
) -> None:
    """Compact the warehouse and remove files nothing needs, also while others read and write."""
    from flows.cli.maintain import maintain_project

    maintain_project(project, expire_older_than, grace)


@app.command(epilog="Example: siftline verify --project examples/reuters")
def verify(project: ProjectOption = Path()) -> None:
    """Check that every file of the warehouse is as it was written; reads all of it once."""
    from flows.cli.maintain import verify_project

    verify_project(project)


@app.command(epilog="Example: siftline up --project examples/reuters")
def up(project: ProjectOption = Path()) -> None:
    """Start all in the background: Prefect's server, the schedule, the engine and Label Studio where they are used."""
    from flows.cli.serving import start_all

    start_all(project)


@app.command(epilog="Example: siftline down")
def down(project: ProjectOption = Path()) -> None:
    """Stop what siftline up started; all data and logs stay."""
    from flows.cli.serving import stop_all

    stop_all(project)


@app.command(epilog="Example: siftline services")
def services(project: ProjectOption = Path()) -> None:
    """Show what siftline up started: whether it runs and answers, where, and its log."""
    from flows.cli.serving import show_services

    show_services(project)


@app.command(epilog="Example: siftline serve --project examples/reuters")
def serve(project: ProjectOption = Path()) -> None:
    """Run the project on its schedule, from this process, seen and steered in Prefect's UI."""
    from flows.cli.serving import serve_deployments

    serve_deployments(project)


@app.command(epilog="Example: siftline deploy --pool siftline")
def deploy(
    pool: Annotated[str, typer.Option(help="Work pool of type process: prefect work-pool create NAME --type process.")],
    project: ProjectOption = Path(),
) -> None:
    """Hand the project's schedule to a Prefect work pool, whose workers then run it."""
    from flows.cli.serving import deploy_to_pool

    deploy_to_pool(project, pool)


@app.command(epilog="Example: siftline doctor --project examples/reuters")
def doctor(project: ProjectOption = Path()) -> None:
    """Check versions, extensions, disk, encoder, settings and servers, and say how to mend what is wrong."""
    from flows.cli.doctor import check_all

    raise typer.Exit(check_all(project))


<<<<<<< HEAD
@lf.command("preview", epilog="Example: siftline lf preview labeling_functions.py --items 100")
def lf_preview(
    file: Annotated[Path | None, typer.Argument(help="File of functions; the project's own if left out.")] = None,
    project: ProjectOption = Path(),
    items: Annotated[int, typer.Option(min=0, help="How many items to try, a fixed random pick; 0 for all.")] = 100,
    ask: Annotated[bool, typer.Option("--ask", help="Also ask the language model, which may cost money.")] = False,
) -> None:
    """Try labeling functions on some items and show what they hit; nothing is written."""
    from flows.cli.lf import preview_functions

    preview_functions(project, file, items or None, ask=ask)


@lf.command("report", epilog='Example: siftline lf report --where "length(content) < 100"')
def lf_report(
    project: ProjectOption = Path(),
    where: Annotated[str, typer.Option(help="Only items for which this SQL over the table items is true.")] = "",
    examples: Annotated[int, typer.Option(min=0, help="Items to show where functions disagree, of each kind.")] = 5,
) -> None:
    """Show how far each function reaches, how right it is, what it adds, and where functions disagree."""
    from flows.cli.lf import report_functions

    report_functions(project, where, examples)


@lf.command("suggest", epilog="Example: siftline lf suggest --output suggested_functions.py")
def lf_suggest(
    project: ProjectOption = Path(),
    output: Annotated[Path | None, typer.Option(help="File to write; suggested_functions.py if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write candidate functions, from people's labels and clusters, to a file to keep or drop them in."""
    from flows.cli.lf import suggest_functions

    suggest_functions(project, output, force=force)


SourceOption = Annotated[
    Path | None, typer.Option("--from", help="Hugging Face folder of the dense parent; left out: all-MiniLM-L6-v2.")
]
TextsOption = Annotated[
    list[Path], typer.Option("--text", help="File of texts, one per line, also .gz; may be repeated.")
]
LayersOption = Annotated[str, typer.Option(help="Layers of the parent to keep, such as 0,2,3,5; left out: all.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Fixes everything random.")]


@engine.command(
    "convert", epilog="Example: siftline engine convert --from my-model --text texts.txt --output routed.safetensors"
)
def engine_convert(
    text: TextsOption,
    output: Annotated[Path, typer.Option(help="File to write, ending in .safetensors.")],
    source: SourceOption = None,
    layers: LayersOption = "",
    heads: Annotated[
        float | None,
        typer.Option(min=1, help="Heads of a layer that work on average at active=0.3; left out: balanced."),
    ] = None,
    experts: Annotated[int, typer.Option(min=2, help="Experts per layer.")] = 14,
    seed: SeedOption = 0,
) -> None:
    """Cut a dense BERT-family model into routed heads and experts; nothing is trained."""
    from flows.cli.engine import convert_model

    convert_model(source, text, output, layers, heads, experts, seed)


@engine.command(
    "distill", epilog="Example: siftline engine distill --text texts.txt --output routed.safetensors --steps 2000"
)
def engine_distill(
    text: TextsOption,
    output: Annotated[Path, typer.Option(help="File to write at the end, ending in .safetensors.")],
    work: Annotated[Path, typer.Option(help="Folder for checkpoints; the same one goes on where it stopped.")] = Path(
        "distill-work"
    ),
    source: SourceOption = None,
    start: Annotated[Path | None, typer.Option(help="Go on from this routed file instead of converting.")] = None,
    layers: LayersOption = "0,2,3,5",
    steps: Annotated[int, typer.Option(min=1, help="Steps of about 4,096 tokens.")] = 6500,
    state_steps: Annotated[int, typer.Option(min=0, help="First steps that also learn single tokens' states.")] = 2450,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 6e-4,
    limit: Annotated[int | None, typer.Option(min=20, help="Texts to read at most.")] = None,
    seed: SeedOption = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to train.")] = "cpu",
) -> None:
    """Train a routed encoder toward its dense parent's vectors; no labels are needed."""
    from flows.cli.engine import distill_model

    distill_model(source, text, output, work, start, layers, steps, state_steps, rate, limit, seed, device)


@engine.command(
    "quantize", epilog="Example: siftline engine quantize --encoder routed --bits 4 --output small.safetensors"
)
def engine_quantize(
    output: Annotated[Path, typer.Option(help="File to write, ending in .safetensors.")],
    encoder: Annotated[str, typer.Option(help="Encoder: routed, dense, or a .safetensors file.")] = "routed",
    bits: Annotated[int, typer.Option(min=4, max=8, help="Bits of a weight: 8 or 4.")] = 4,
) -> None:
    """Write a smaller file of an encoder in 8 or 4 bits; nothing is trained."""
    from flows.cli.engine import quantize_model

    quantize_model(encoder, bits, output)


@engine.command("trace", epilog='Example: siftline engine trace "Oil rose." "Wheat fell on better weather."')
def engine_trace(
    texts: Annotated[list[str], typer.Argument(help="Texts.")],
    encoder: Annotated[str, typer.Option(help="Encoder: routed, dense, or a .safetensors file.")] = "routed",
    active: Annotated[float | None, typer.Option(help="Budget, such as 0.2, 0.3, 0.5 or 1.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "fp32",
) -> None:
    """Show which heads and experts work for a text, and what that costs."""
    from flows.cli.engine import trace_texts

    trace_texts(texts, encoder, active, precision)


@engine.command("serve", epilog="Example: siftline engine serve --encoder routed --port 8180")
def engine_serve(
    encoder: Annotated[str, typer.Option(help="Encoder: default, routed, dense, or a .safetensors file.")] = "default",
    active: Annotated[float | None, typer.Option(help="Budget of a routed encoder.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, int8 or int4.")] = "fp32",
    memory_budget: Annotated[
        int | None, typer.Option(min=1, help="Most MiB of weights in memory; the rest is read for each batch.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=3, help="Cut texts after this many tokens.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Batches computed at a time, one core each.")] = None,
    host: Annotated[
        str, typer.Option(help="Address; one that is not loopback needs SIFTLINE_ENGINE_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8180,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a batch.")] = 1024,
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
    from flows.cli.engine import ServeOptions, serve_encoder

    serve_encoder(
        ServeOptions(
            encoder=encoder,
            active=active,
            precision=precision,
            memory_budget_mib=memory_budget,
            max_tokens=max_tokens,
            threads=threads,
            host=host,
            port=port,
            batch_tokens=batch_tokens,
            queue_texts=queue_texts,
            queue_tokens=queue_tokens,
            max_inputs=max_inputs,
            max_body_bytes=max_body_bytes,
            max_connections=max_connections,
            deadline_s=deadline,
            idle_s=idle,
            drain_s=drain,
        )
    )


@samples.command("list", epilog="Example: siftline samples list")
def samples_list() -> None:
    """List the samples that can be fetched."""
    from flows.cli.samples import list_samples

    list_samples()


@samples.command("get", epilog="Example: siftline samples get reuters-r8 --output data")
def samples_get(
    name: Annotated[str, typer.Argument(help="Name from `siftline samples list`.")],
    output: Annotated[Path, typer.Option(help="Folder for items.parquet and gold.parquet.")] = Path("data"),
) -> None:
    """Fetch a sample: items without labels in one file, the gold labels in another."""
    from flows.cli.samples import fetch_sample

    fetch_sample(name, output)


@studio.command("up", epilog="Example: siftline studio up --project examples/reuters")
def studio_start(
    project: ProjectOption = Path(),
    load: Annotated[bool, typer.Option("--load", help="Run the project and send its queue there.")] = False,
) -> None:
    """Start a local Label Studio on loopback and print its address and log-in."""
    from flows.cli.studio import start

    start(project, load=load)


@studio.command("status", epilog="Example: siftline studio status")
def studio_state(project: ProjectOption = Path()) -> None:
    """Say whether the local Label Studio runs, and where."""
    from flows.cli.studio import status

    status(project)


@studio.command("down", epilog="Example: siftline studio down")
def studio_stop(project: ProjectOption = Path()) -> None:
    """Stop the local Label Studio; its data stays."""
    from flows.cli.studio import stop

    stop(project)


=======
>>>>>>> main
if __name__ == "__main__":
    main()
