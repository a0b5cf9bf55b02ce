"""The commands of `siftline` and their options: each parses, calls and prints; it decides nothing.

Heavy packages are imported inside the commands, so that `--help` answers at once.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli import engine, groups
from flows.cli.terminal.options import AtOption, Commands, ForceOption, OutputOption, ProjectOption, ending_in

app = typer.Typer(
    name="siftline",
    cls=Commands,
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From raw records to a labelled data set for the fewest human hours.",
    epilog="Start with: siftline init my-project --sample reuters-r8",
)
for _name, _group in (
    ("export", groups.export),
    ("lf", groups.lf),
    ("engine", engine.app),
    ("samples", groups.samples),
    ("studio", groups.studio),
):
    app.add_typer(_group, name=_name)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        from warehouse import siftline_version

        print(f"siftline {siftline_version()}")
        raise typer.Exit


@app.command(epilog="Example: siftline init my-project --source comments.csv --text body --classes spam,ham")
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new project.")],
    classes: Annotated[str, typer.Option(help="Class names, by commas; one that holds a comma in double quotes.")] = "",
    source: Annotated[
        Path | None,
        typer.Option(help="File with your records: Parquet, CSV, TSV or JSONL, the text formats also as .gz."),
    ] = None,
    text: Annotated[str, typer.Option(help="Column or field that holds the text; left out, it is `text`.")] = "",
    id: Annotated[str, typer.Option(help="Column or field that holds your id; left out, ids are made.")] = "",
    sample: Annotated[str, typer.Option(help="Start from a sample instead; see `siftline samples list`.")] = "",
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="An item may have several of the classes, or none.")
    ] = False,
) -> None:
    """Make a project: a commented siftline.toml and a file for labeling functions."""
    from flows.cli.init import init_project

    init_project(
        folder,
        classes=classes,
        source=source,
        text=text or None,
        id_field=id or None,
        sample=sample or None,
        multi_label=multi_label,
    )


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
    from flows.cli.status import show_status

    show_status(project)


@app.command(epilog="Example: siftline report --output report.html")
def report(
    project: ProjectOption = Path(),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            callback=ending_in(".html"),
            help="File to write; report.html in the project if left out.",
        ),
    ] = None,
) -> None:
    """Write the report: one HTML page that needs no network."""
    from flows.cli.status import make_report

    make_report(project, output)


@app.command(epilog='Example: siftline sql -c "select label, count(*) from training_set group by label"')
def sql(
    query: Annotated[str, typer.Argument(help="SQL to run; left out, it is read from a prompt or a pipe.")] = "",
    project: ProjectOption = Path(),
    format: Annotated[
        Literal["table", "csv", "json", "parquet"],
        typer.Option(
            help="csv: a ' stands before cells a spreadsheet would take for a formula; json: one per line. Left out "
            "with --output: by the suffix .csv, .json, .jsonl or .parquet."
        ),
    ] = "table",
    command: Annotated[str, typer.Option("--command", "-c", help="The same as QUERY.")] = "",
    at: AtOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
    attach: Annotated[bool, typer.Option("--attach", help="Print the lines for any other DuckDB client.")] = False,
) -> None:
    """Ask the warehouse in SQL, read-only, also while a run writes, also as it was."""
    from flows.cli.data.sql import print_attach, run_sql

    if attach:
        print_attach(project, at, nothing_else=not (query or command or output or format != "table"))
    else:
        run_sql(project, query, command, format, at=at, output=output, force=force)


@app.command(epilog="Example: siftline questions decayed-functions")
def questions(
    name: Annotated[str, typer.Argument(help="Question to answer; left out, all are listed.")] = "",
    project: ProjectOption = Path(),
    format: Annotated[Literal["table", "csv", "json", "parquet"], typer.Option(help="As in siftline sql.")] = "table",
    at: AtOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the query, to change it.")] = False,
) -> None:
    """Answer what data scientists ask of every project, and say how to read it."""
    from flows.cli.data.questions import answer_question

    answer_question(project, name, format, at=at, output=output, force=force, sql=sql)


@app.command("snapshots", epilog="Example: siftline snapshots --limit 5")
def list_history(
    project: ProjectOption = Path(),
    limit: Annotated[int, typer.Option(min=1, help="How many to show, the newest first.")] = 20,
) -> None:
    """List the kept snapshots: number, time, author, message and rows."""
    from flows.cli.data.history import list_snapshots

    list_snapshots(project, limit)


@app.command(epilog="Example: siftline diff 4 9")
def diff(
    before: Annotated[str, typer.Argument(help="Snapshot number or time.")],
    after: Annotated[str | None, typer.Argument(help="The same; left out: the newest.")] = None,
    project: ProjectOption = Path(),
    limit: Annotated[int, typer.Option(min=0, help="How many changed labels to show.")] = 20,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for all of them: .csv, .json, .jsonl or .parquet.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Show which labels changed between two snapshots, and why."""
    from flows.cli.data.history import show_diff

    show_diff(project, before, after, limit, output, force=force)


@app.command(epilog="Example: siftline suspects --limit 50")
def suspects(
    limit: Annotated[int, typer.Option(min=1, help="How many labels are shown.")] = 20,
    project: ProjectOption = Path(),
    format: Annotated[
        Literal["table", "csv", "json"], typer.Option(help="csv and json: whole texts and figures, as in siftline sql.")
    ] = "table",
) -> None:
    """Show labels to look at again: model and neighbours, which never saw them, prefer another class."""
    from flows.cli.status import show_suspects

    show_suspects(project, limit, format)


@app.command(epilog="Example: siftline queue --next 20")
def queue(
    action: Annotated[
        Literal["show", "reconcile"], typer.Argument(help="show, or reconcile with the service.")
    ] = "show",
    project: ProjectOption = Path(),
    next: Annotated[int, typer.Option(min=0, help="How many of the next tasks to show.")] = 10,
) -> None:
    """Show the annotation queue, or mend differences between it and the annotation service."""
    from flows.cli.status import reconcile_queue, show_queue

    if action == "reconcile":
        reconcile_queue(project)
    else:
        show_queue(project, next)


@app.command(epilog="Example: siftline answer --name ann")
def answer(
    project: ProjectOption = Path(),
    name: Annotated[str, typer.Option(help="Who answers; left out, your name on this machine.")] = "",
) -> None:
    """Label the waiting tasks in the terminal, where no Label Studio is used."""
    from flows.cli.answer.session import answer_tasks

    answer_tasks(project, name)


@app.command(epilog="Example: siftline collect")
def collect(project: ProjectOption = Path()) -> None:
    """Fetch the answers of annotators; `siftline run` learns from them."""
    from flows.cli.status import collect_answers

    collect_answers(project)


@app.command("import", epilog="Example: siftline import labels.csv --annotator ann")
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV, TSV, JSON, JSONL or Parquet: id or text, label, maybe annotator.")],
    project: ProjectOption = Path(),
    annotator: Annotated[
        str, typer.Option(help="Who gave the labels, where the file has no column annotator.")
    ] = "imported",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take back what was imported of these items.")] = False,
) -> None:
    """Take labels that people gave elsewhere; `siftline run` learns from them."""
    from flows.cli.import_labels import import_file

    import_file(project, file, annotator, withdraw=withdraw)


@app.command(epilog="Example: siftline webhook --port 8190")
def webhook(
    project: ProjectOption = Path(),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8190,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two collects at least.")] = 10.0,
    register: Annotated[
        str, typer.Option(help="Address under which Label Studio reaches this; it is entered there.")
    ] = "",
) -> None:
    """Receive Label Studio's webhooks and collect soon after one came; SIFTLINE_WEBHOOK_SECRET is what they carry."""
    from flows.cli.webhook import receive

    receive(project, host=host, port=port, every_s=every, register=register)


@app.command(epilog="Example: siftline embed --input texts.jsonl --text-field text --output vectors.parquet")
def embed(
    input: Annotated[Path, typer.Option(help="Parquet, CSV, TSV or JSONL, the text formats also as .gz.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", callback=ending_in(".parquet"), help="Parquet file to write: id, vector."),
    ],
    text_field: Annotated[str, typer.Option(help="Column or field that holds the text.")] = "text",
    id_field: Annotated[
        str,
        typer.Option(
            help="Column or field that holds the id; left out: the line on which a record begins, in Parquet its row."
        ),
    ] = "",
    encoder: Annotated[
        str, typer.Option(help="Encoder: default, routed, shallow, dense, or a .safetensors file.")
    ] = "default",
    active: Annotated[
        float | None, typer.Option(help="Budget of a routed encoder, such as 0.2, 0.5 or 1; left out: 0.3.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=8, help="Cut texts after this many tokens; left out: 256.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, int8 or int4; bf16 on cuda.")] = "fp32",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to compute; cuda in fp32 or bf16.")] = "cpu",
) -> None:
    """Turn any file of texts into vectors; needs no project."""
    from flows.cli.embed import embed_texts

    embed_texts(input, output, text_field, id_field or None, encoder, active, max_tokens, precision, device)


@app.command(epilog='Example: siftline predict "I was charged twice"')
def predict(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, each in quotes.", show_default=False)] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            help="A file of texts instead: Parquet, CSV, TSV or JSONL, the last three also as .gz; - for JSONL that is "
            "piped in."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Parquet, CSV or JSONL file to write for them: id, label, confidence, probs; left out: JSONL to the "
            "terminal or a pipe.",
        ),
    ] = None,
    text_field: Annotated[str, typer.Option(help="Column or field that holds the text.")] = "text",
    id_field: Annotated[
        str, typer.Option(help="Column or field that holds the id; left out: the line or the row of the record.")
    ] = "",
    ask: Annotated[
        bool, typer.Option("--ask", help="Let functions ask the language model too, where votes count; it costs money.")
    ] = False,
    project: ProjectOption = Path(),
) -> None:
    """Say what the end model of the last run makes of any text, without taking it into the warehouse."""
    from flows.cli.predict import predict_file, predict_texts

    if bool(texts) == bool(input) or (output and not input):
        raise typer.BadParameter("give texts, or a file of them as --input and one to write as --output.")
    if input:
        predict_file(project, input, output, text_field, id_field or None, ask=ask)
    else:
        predict_texts(project, texts or [], ask=ask)


@app.command(epilog="Example: siftline maintain --expire-older-than 90")
def maintain(
    project: ProjectOption = Path(),
    expire_older_than: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Give up snapshots older than this many days, rows in files that were deleted before, and what models "
            "older than this said of items that nobody was asked about; left out, all are kept.",
        ),
    ] = None,
    grace: Annotated[float, typer.Option(min=0, help="Hours that files nobody needs are kept for readers.")] = 24.0,
) -> None:
    """Compact the warehouse and remove files nothing needs, also while others read and write."""
    from flows.cli.data.maintain import maintain_project

    maintain_project(project, expire_older_than, grace)


@app.command(epilog="Example: siftline verify --project examples/reuters")
def verify(project: ProjectOption = Path()) -> None:
    """Check that every file of the warehouse is as it was written; reads all of it once."""
    from flows.cli.data.maintain import verify_project

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


@app.command(epilog="Example: siftline docs label-studio 'Other classes'")
def docs(
    page: Annotated[str, typer.Argument(help="Page to print; left out, all are listed.")] = "",
    heading: Annotated[str, typer.Argument(help="Print only what stands below this heading.")] = "",
) -> None:
    """Print the pages on Label Studio, operations, querying and more that messages name."""
    from flows.cli.docs import show_page

    show_page(page, heading)


@app.command(epilog="Example: siftline doctor --project examples/reuters")
def doctor(project: ProjectOption = Path()) -> None:
    """Check versions, disk, the project's encoder and settings, and its servers, and say how to mend what is wrong."""
    from flows.cli.doctor import check_all

    raise typer.Exit(check_all(project))
