"""`siftline answer`: label the waiting tasks of a folder in the terminal, each answer kept before the next is shown."""

import getpass
import io
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from active.annotation.service import SIMULATED
from active.queue.outbox import queue_rows
from active.task_folder.service import TaskFolder
from active.task_folder.task_view import OpenTask
from flows.cli.answer.keys import Command, Keys, NotUnderstood
from flows.cli.status import project_hint, why_nobody_is_asked
from flows.cli.terminal.console import err, out, safe, safe_prose, say
from flows.project.project import Project
from flows.report.text import counted
from warehouse import SchemaTooOld, ServiceRefused, SettingsError, WarehouseNotFound
from warehouse.schema.answer_views import NO_CLASS, person

WIDEST = 100
"""Characters of a line; longer ones are hard to read."""
MOST_LINES = 16
"""Lines of a text that are shown at first."""


def answer_tasks(root: Path, name: str) -> None:
    """Show the tasks that wait for a person one after another and keep each answer in its task file.

    Raises:
        SettingsError: people answer elsewhere, or the name cannot be an annotator's.
    """
    project = Project(root)
    folder = project.service
    if not isinstance(folder, TaskFolder):
        raise SettingsError(f"People answer this project in {folder.describe()}, not in the terminal; answer there.")
    annotator = _annotator(name)
    people = project.settings.annotate.annotators_per_task
    tasks = folder.waiting(annotator, people=people)
    for problem in folder.problems.values():
        say(problem)
    if not tasks:
        out.print(Text(f"No task waits for {safe(annotator)} in {folder.describe()}."))
        if lost := _without_file(project, folder):
            gone = counted(lost, "task that waits for annotators has", "tasks that wait for annotators have")
            say(
                f"{gone} no file any more. To write {'it' if lost == 1 else 'them'} anew: "
                f"siftline queue reconcile{project_hint(root)}"
            )
        elif spent := _spent(project):
            out.print(spent)
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    session = Session(project, folder, annotator, [task.task_id for task in tasks])
    try:
        session.work()
    except (EOFError, KeyboardInterrupt):
        out.print()
    count = len(session.given)
    _tell(f"{count} of {counted(len(tasks), 'task')} answered or skipped" + ("" if count else "; nothing was changed"))
    if count:
        out.print("To learn from them: siftline run" + project_hint(project.root))


def _without_file(project: Project, folder: TaskFolder) -> int:
    """How many tasks that wait by the warehouse have no file, because somebody removed it."""
    try:
        with project.read_lake() as lake, lake.read() as reader:
            waiting = [row["item_id"] for row in queue_rows(reader, project.queue_config, "confirmed")]
    except (WarehouseNotFound, SchemaTooOld):
        return 0
    return len(set(waiting) - set(folder.find(waiting)))


def _spent(project: Project) -> str:
    """Why nobody is asked any more; empty where a run would ask."""
    try:
        with project.read_lake() as lake, lake.read() as reader:
            return why_nobody_is_asked(reader, project.settings)
    except (WarehouseNotFound, SchemaTooOld):
        return ""


def _annotator(name: str) -> str:
    try:
        annotator = name.strip() or getpass.getuser()
        annotator.encode()
    except (OSError, KeyError, ValueError) as error:
        raise SettingsError("Nobody knows who answers here; give your name: --name NAME") from error
    if annotator == SIMULATED or not person(annotator, ""):
        raise SettingsError(f"{annotator!r} is no person's name; give another: --name NAME")
    return annotator


class Session:
    """One person at the tasks.

    Args:
        project: the open project.
        folder: where its tasks are.
        annotator: who answers.
        task_ids: the tasks in the order in which they are shown.
    """

    def __init__(self, project: Project, folder: TaskFolder, annotator: str, task_ids: list[str]) -> None:
        self.given: dict[str, str] = {}
        """What was answered, in words, by task id."""
        self._folder = folder
        self._annotator = annotator
        self._people = project.settings.annotate.annotators_per_task
        self._headings = project.settings.annotate.show
        self._keys = Keys(project.classes, multi_label=project.multi_label)
        self._place = {task_id: n for n, task_id in enumerate(task_ids, 1)}
        self._ahead = task_ids[::-1]
        self._behind: list[str] = []
        self._spent_s: dict[str, float] = {}

    def work(self) -> None:
        """Ask until nothing is left or the person quits.

        Raises:
            EOFError: the input ended.
        """
        _tell(self._keys.help(), style="dim")
        while self._ahead:
            task_id = self._ahead.pop()
            try:
                task = self._folder.open_task(task_id)
                if not self._folder.is_latest(task_id):
                    say(f"Task {self._place[task_id]} was replaced meanwhile: people are asked anew about this one.")
                elif self._is_done(task):
                    say(f"Task {self._place[task_id]} was answered meanwhile.")
                elif not self._ask(task):
                    return
            except ServiceRefused as error:
                say(str(error))

    def _is_done(self, task: OpenTask) -> bool:
        done = self._annotator in task.people or len(task.people) >= self._people
        return done and task.task_id not in self.given

    def _ask(self, task: OpenTask) -> bool:
        """Show a task and do what the person says; False to quit."""
        self._show(task)
        began = time.monotonic()
        said = self._said(task)
        spent = self._spent_s.get(task.task_id, 0.0) + time.monotonic() - began
        self._spent_s[task.task_id] = spent
        if said == "quit":
            return False
        if said == "back":
            self._ahead += [task.task_id, self._behind.pop()]
            return True
        if said != "keep":
            labels = None if isinstance(said, str) else said
            self._folder.annotate(
                task.task_id, labels=labels, annotator=self._annotator, seconds=round(spent, 1), shown=task.data
            )
            self.given[task.task_id] = "skipped" if labels is None else ", ".join(labels) or NO_CLASS
        self._behind.append(task.task_id)
        return True

    def _said(self, task: OpenTask) -> Command | tuple[str, ...] | str:
        """An answer, or a command that leaves this task."""
        while True:
            line = input("> " if sys.stdin.isatty() else "")
            if not line.strip() and task.task_id in self.given:
                return "keep"
            try:
                said = self._keys.meaning(line)
            except NotUnderstood as error:
                _tell(f"{safe(error)} Keys: {self._keys.help()}", console=err)
                continue
            if said == "more":
                self._show(task, cut=False)
            elif said == "back" and not self._behind:
                say("This is the first one.")
            else:
                return said

    def _show(self, task: OpenTask, *, cut: bool = True) -> None:
        out.print()
        out.print(Text(f"{self._place[task.task_id]} of {len(self._place)}", style="bold"))
        if task.image:
            out.print(Text(f"image: {safe(task.image)}"))
        self._show_texts(task, cut=cut)
        out.print()
        for line in self._keys.offered():
            out.print(Text(safe(line)))
        value = f" (value {task.value:.2f})" if task.value else ""  # one drawn at random has none
        _tell(f"Why this one: {safe_prose(task.reason)}{value}", style="dim")
        if task.suggested is not None:
            classes = safe(", ".join(task.suggested)) or NO_CLASS
            _tell(f"The model's suggestion: {classes} ({task.confidence:.2f})", style="dim")
        if given := self.given.get(task.task_id):
            _tell(f"Your answer: {safe(given)}; Enter keeps it")

    def _show_texts(self, task: OpenTask, *, cut: bool) -> None:
        headings = self._headings if len(self._headings) == len(task.texts) else ()
        for place, text in enumerate(task.texts):
            out.print()
            if headings:
                out.print(Text(safe(headings[place]), style="bold"))
            lines, whole = wrapped(text, MOST_LINES if cut else None)
            for line in lines:
                line.rstrip()
                out.print(line)
            if not whole:
                _tell(f"... {len(text):,} characters in all; {self._keys.more} shows them", style="dim")


def _tell(text: str, *, style: str = "", console: Console = out) -> None:
    """Print a sentence in lines that break between words."""
    for line in Text(text, style=style).wrap(console, min(WIDEST, shutil.get_terminal_size().columns)):
        line.rstrip()
        console.print(line)


def wrapped(text: str, most_lines: int | None) -> tuple[list[Text], bool]:
    """A text in lines that fit the terminal, control characters shown, and whether they are all of it."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    lines: list[Text] = []
    beginning = text if most_lines is None else text[: width * (most_lines + 1)]
    for line in beginning.expandtabs(4).splitlines():
        lines += Text(safe_prose(line.rstrip())).wrap(out, width) or [Text()]
    if most_lines is None or (len(lines) <= most_lines and len(beginning) == len(text)):
        return lines, True
    return lines[:most_lines], False
