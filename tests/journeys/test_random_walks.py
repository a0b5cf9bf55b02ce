"""A project driven by random walks: whatever is done to it in whatever order, what is promised of its state holds.

Each step edits the source, the functions or the settings, answers tasks, imports labels, lets a run die at a commit, or
runs. What has to be in the warehouse is worked out here from the files alone, and at the end compared with a project
that is built at once from the last records and labels.
"""

import functools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import warehouse
from engine.load import load_encoder
from flows.cli.main import run_command
from flows.pipelines.stages import RunSummary, run_passes, run_stage_in_process
from flows.project.project import Project
from warehouse import Lake

WORDS = {"fruit": "apple pear plum cherry", "metal": "iron copper zinc tin", "bird": "crow robin finch owl"}
CLASSES = list(WORDS)
BUDGET = 9


class Died(BaseException):
    """The process of a run ended here."""


class Walk:
    """A project, what its files hold, and what follows from them."""

    def __init__(self, root: Path, seed: int, patch: pytest.MonkeyPatch) -> None:
        self.root, self.random, self.patch = root, random.Random(seed), patch
        self.records: dict[str, dict[str, str]] = {}
        self.former: list[tuple[str, str]] = []
        self.items: dict[str, tuple[str, str]] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.open: set[str] = set()
        self.asked: set[str] = set()
        self.died = False
        self.taken_back: dict[str, str] = {}
        self.functions = {name: words.split()[:2] for name, words in WORDS.items()}
        self.settings: dict[str, int] = {"annotators_per_task": 1, "batch": 3}
        self.seen: dict[int, str] = {}
        self.told: list[str] = []
        (root / "data").mkdir(parents=True)
        for _ in range(20):
            self.append()

    def step(self) -> None:
        """One random operation."""
        steps = [self.append, self.edit, self.edit, self.take_edit_back, self.move, self.write_functions, self.set]
        steps += [self.answer, self.answer, self.answer, self.take_answer_back, self.import_labels, self.lose_caches]
        step = self.random.choice([*steps, self.die, self.run, self.run])
        self.told.append(step.__name__)
        step()

    def append(self) -> None:
        about = self.random.choices([*WORDS[self.random.choice(CLASSES)].split(), "an", "old", "the"], k=5)
        split = self.random.choice(["train", "train", "train", "train", "test"])
        self.records[f"r{len(self.records)}"] = {"text": f"{' '.join(about)} {len(self.records)}", "split": split}

    def edit(self) -> None:
        """Another text for a record, preferably one that people were asked about."""
        asked = [str(task["data"]["item_id"]) for task in self.tasks()]
        item = self.random.choice(asked or list(self.records))
        self.former.append((item, self.records[item]["text"]))
        self.records[item]["text"] = f"{self.random.choice(WORDS[self.random.choice(CLASSES)].split())} {item}"

    def take_edit_back(self) -> None:
        if self.former:
            item, text = self.former.pop(self.random.randrange(len(self.former)))
            self.records[item]["text"] = text

    def move(self) -> None:
        """A record to another split, preferably one that people were asked about."""
        asked = [str(task["data"]["item_id"]) for task in self.tasks()]
        self.records[self.random.choice(asked or list(self.records))]["split"] = self.random.choice(["train", "test"])

    def write_functions(self) -> None:
        name = self.random.choice(CLASSES)
        self.functions[name] = self.random.sample(WORDS[name].split(), self.random.randint(1, 4))

    def set(self) -> None:
        name, value = self.random.choice([("annotators_per_task", 1), ("annotators_per_task", 2), ("batch", 2)])
        self.settings[name] = value

    def tasks(self, *, answered: bool | None = None) -> list[dict[str, Any]]:
        tasks = [json.loads(path.read_text("utf-8")) for path in sorted((self.root / "tasks").glob("*.json"))]
        return [task for task in tasks if answered is None or bool(task.get("annotations")) == answered]

    def answer(self) -> None:
        """Some tasks, also answered ones and those of earlier texts, by one or two people, rightly or not."""
        folder = self.project().folder
        tasks = self.tasks()
        for task in self.random.sample(tasks, min(len(tasks), 4)):
            for who in self.random.sample(["ann", "bob"], self.random.choice([1, 1, 2])):
                before = [said["result"] for said in task.get("annotations") or [] if said["completed_by"] == who]
                labels = None if self.random.random() < 0.1 else [self.random.choice(CLASSES)]
                if before and labels and before[0] and before[0][0]["value"]["choices"] == labels:
                    continue  # saved again as it was it keeps its time
                folder.annotate(task["id"], labels=labels, annotator=who, seconds=3.0)

    def take_answer_back(self) -> None:
        for task in self.tasks(answered=True)[:1]:
            task["annotations"].pop()
            self.taken_back[task["id"]] = task["data"]["item_id"]
            (self.root / "tasks" / f"{task['id']}.json").write_text(json.dumps(task), "utf-8")

    def import_labels(self) -> None:
        labels = {item: self.random.choice(CLASSES) for item in self.random.sample(list(self.records), 3)}
        file = self.root / "labels.jsonl"
        file.write_text("\n".join(json.dumps({"id": item, "label": label}) for item, label in labels.items()), "utf-8")
        self.write()
        assert run_command(["import", str(file), "--project", str(self.root)]) in (0, 2)
        self.items = {item: (record["text"], record["split"]) for item, record in self.records.items()}
        for item, label in labels.items():
            if self.items[item][1] == "train":
                self.imported[item] = label, self.items[item][0]

    def lose_caches(self) -> None:
        shutil.rmtree(self.root / ".siftline", ignore_errors=True)

    def die(self) -> None:
        """A run that ends before or after one of its commits; what it did is seen by the next one."""
        real, left, before = Lake.commit_stage, [self.random.randint(1, 12)], self.random.random() < 0.5

        def commit(lake: Lake, *args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 and before:
                raise Died
            result = real(lake, *args, **kwargs)
            if left[0] == 0:
                raise Died
            return result

        with self.patch.context() as patch:
            patch.setattr(Lake, "commit_stage", commit)
            try:
                self.run_stages()
            except Died:
                self.died = True

    def run(self) -> None:
        self.run_stages()
        self.items = {item: (record["text"], record["split"]) for item, record in self.records.items()}
        self.check()
        assert self.run_stages().rows_written == 0, "a second run writes nothing"

    def project(self) -> Project:
        self.write()
        return Project(self.root)

    def write(self) -> None:
        rows = [json.dumps({"id": item, **record}) for item, record in self.records.items()]
        (self.root / "data" / "texts.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
        lines = [f"{name} = keywords({name!r}, {words!r})" for name, words in self.functions.items()]
        (self.root / "labeling_functions.py").write_text(
            "\n".join(["from weak_labels import keywords", *lines]), "utf-8"
        )
        (self.root / "siftline.toml").write_text(
            f'[project]\nname = "walk"\nclasses = {json.dumps(CLASSES)}\n[encoder]\nname = "shallow"\nmax_tokens = 16\n'
            '[[sources]]\nname = "texts"\npath = "data/texts.jsonl"\nid = "id"\nsplit = "split"\n'
            f"[select]\nbudget = {BUDGET}\nbatch = {self.settings['batch']}\n[annotate]\nsecond_opinion = 0.5\n"
            f"annotators_per_task = {self.settings['annotators_per_task']}\n",
            "utf-8",
        )

    def run_stages(self) -> RunSummary:
        project = self.project()
        try:
            with project.only_run():
                return run_passes(run_stage_in_process(project), simulated=False)
        finally:
            project.lake.close()

    def ask(self, sql: str, *, at: int | None = None) -> list[tuple[Any, ...]]:
        with warehouse.connect(self.root / "lake", at=at) as lake:
            return lake.rows(sql)

    def check(self) -> None:
        """What the files say has to be in the warehouse, and nothing else."""
        assert {item: of for item, *of in self.ask("SELECT item_id, content, split FROM items")} == {
            item: list(of) for item, of in self.items.items()
        }
        votes = {(item, name) for item, name in self.ask("SELECT item_id, lf_name FROM lf_votes")}
        assert votes == {
            (item, name)
            for item, (text, _) in self.items.items()
            for name, words in self.functions.items()
            if set(words) & set(text.split())
        }
        self._check_answers()
        self._check_queue()
        said = {item for (item,) in self.ask("SELECT item_id FROM latest_predictions")}
        assert said in (set(), set(self.items))
        gold = {item for (item,) in self.ask("SELECT item_id FROM gold_labels")}
        assert {item for (item,) in self.ask("SELECT item_id FROM training_set")} == said | gold
        self.seen[self.ask("SELECT max(snapshot_id) FROM lake.snapshots()")[0][0]] = self.digest(None)

    def _check_answers(self) -> None:
        given: dict[tuple[str, str, str], tuple[str, str]] = {}
        opinions: dict[tuple[str, str], tuple[str, str]] = {}
        for task in self.tasks(answered=True):
            for answer in task["annotations"]:
                item, who = task["data"]["item_id"], answer["completed_by"]
                label = answer["result"][0]["value"]["choices"][0] if answer["result"] else ""
                given[item, who, task["id"]] = "labelled" if label else "skipped", label
                if label and task["data"]["text"] == self.items[item][0]:
                    opinions[item, who] = max(opinions.get((item, who), ("", "")), (answer["updated_at"], label))
        rows = self.ask("""
            SELECT item_id, annotator, task_id, action, coalesce(name, '')
            FROM current_annotations LEFT JOIN classes USING (class_id) WHERE project = 'walk' AND action <> 'deleted'
        """)
        # What is taken back of a task that the same run withdraws stays, as answers of any task that is gone do.
        there = {task["id"] for task in self.tasks()}
        rows = [row for row in rows if row[2] in there]
        assert len(rows) == len(given)
        assert {(item, who, task): of for item, who, task, *of in rows} == {key: list(of) for key, of in given.items()}
        said = {(item, who): label for (item, who), (_, label) in opinions.items()}
        imported = {
            (item, "imported"): said for item, (said, text) in self.imported.items() if text == self.items[item][0]
        }
        rows = self.ask("SELECT item_id, annotator, name FROM opinions JOIN classes USING (class_id)")
        assert {(item, who): label for item, who, label in rows} == said | imported
        gold = dict(self.ask("SELECT item_id, label FROM gold_labels"))
        assert gold.keys() == {item for item, _ in said | imported}
        assert gold.items() <= {(item, label) for (item, _), label in (said | imported).items()}

    def _check_queue(self) -> None:
        rows = self.ask("SELECT item_id, task_id, state FROM queue ORDER BY item_id")
        assert {state for *_, state in rows} <= {"confirmed", "answered"}
        assert sum(item not in self.imported for item, *_ in rows) <= BUDGET
        shown = {task["id"]: task["data"]["text"] for task in self.tasks()}
        now = {item: task for item, task, state in rows if state == "confirmed"}
        assert {task: shown[task] for task in now.values()} == {task: self.items[item][0] for item, task in now.items()}
        # Of an earlier text it stays, and `siftline answer` shows an item's latest task only.
        assert {task["id"] for task in self.tasks(answered=False)} - self.taken_back.keys() <= set(now.values())
        again = self.open | set(self.taken_back.values())  # open once more without its answer
        fresh = {item for item, task in now.items() if item not in again and task not in self.asked}
        moved = {item for item in fresh if self.items[item][1] != "train"}
        assert not moved or self.died, "nobody is asked about what nothing learns from"
        self.open, self.died = set(now), False
        self.asked |= set(shown)

    def digest(self, at: int | None) -> str:
        views = (
            "training_set",
            "gold_labels",
            "annotators",
            "contested",
            "lf_summary",
            "queue_progress",
            "disagreements",
        )
        return repr([sorted(map(repr, self.ask(f"SELECT * FROM {view}", at=at))) for view in views])

    def check_the_past(self) -> None:
        assert {at: self.digest(at) for at in self.seen} == self.seen, "a snapshot reads the same for ever"
        assert run_command(["verify", "--project", str(self.root)]) == 0

    def check_against_fresh(self, fresh: "Walk") -> None:
        """The last records and labels, in a project that begins with them, give the same."""
        fresh.records, fresh.functions, fresh.settings = self.records, self.functions, self.settings
        labels = self.ask("SELECT item_id, annotator, name FROM opinions JOIN classes USING (class_id)")
        rows = [{"id": item, "annotator": who, "label": label} for item, who, label in labels]
        (fresh.root / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
        fresh.write()
        if rows:
            run_command(["import", str(fresh.root / "labels.jsonl"), "--project", str(fresh.root)])
        fresh.run_stages()
        for sql in (
            "SELECT item_id, content_hash, vector FROM vectors ORDER BY 1",
            "SELECT item_id, lf_name, lf_version, vote FROM lf_votes ORDER BY 1, 2",
            "SELECT item_id, votes, list_transform(probs, lambda p: round(p, 4)) FROM latest_weak_labels ORDER BY 1",
        ):
            assert self.ask(sql) == fresh.ask(sql)


def walk(folder: Path, seed: int, steps: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("flows.project.project.load_encoder", functools.cache(load_encoder))
    walked = Walk(folder / "project", seed, patch)
    try:
        walked.run()
        for _ in range(steps):
            walked.step()
        walked.run()
        walked.check_the_past()
        walked.check_against_fresh(Walk(folder / "fresh", seed, patch))
    except BaseException as error:
        error.add_note(f"seed {seed}: {', '.join(walked.told)}")
        raise


def test_a_short_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk(tmp_path, 0, 8, monkeypatch)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_long_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    walk(tmp_path, seed, 40, monkeypatch)
