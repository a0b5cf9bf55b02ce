"""The labeling page that annotators see in Label Studio, as its XML: what is labelled, the classes, and why this one.

Texts, reasons and suggestions come in as task data, which Label Studio shows as text; only class names stand in the
XML, so only they are escaped and checked here. A page that a person has redesigned is changed in its classes only.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from active.annotation.service import IMAGE, LABEL, TEXT, text_key
from active.annotation.task_content import MOST_TEXTS
from warehouse import SettingsError

_LONG_NAME = 24
"""Letters; where a class has a longer name, each stands on a line of its own, or many in columns."""
_IN_COLUMNS = 10
"""Classes with long names, from which on they stand in two columns: more are not in sight on a laptop."""
_MANY = 15
"""Classes from which on a long text gets a smaller box and rows are closer, so that they stay in sight on a laptop."""
_KEYS = 33
"""Keys that Label Studio 1.23.2 has for choices; further classes have none."""
_COLUMN_REM = 24.0
"""Width from which two fit beside each other on a laptop; a longer name takes two lines there."""
_LETTER_REM = 0.46
_AROUND_REM = 4.1
"""Width of a letter of a class, and of the button, key and space around a name: measured in Label Studio 1.23.2."""
# `lsf-*` are Label Studio's own class names; where it renames them, spacing and columns are lost. On a phone it makes
# the page wider than the screen, so that Submit lies outside, and the list of tasks takes half of it: the last rules
# are for screens as narrow as that. Each line of a text begins on the side where its first letter does. A click on the
# class that is chosen already, the suggestion, changes nothing, but it would leave the page deaf to all keys.
_PAGE = """<View style="max-width: {width}; margin: 0 auto; padding: 0 1rem">
  <Style>.lsf-richtext__container, .lsf-richtext__line {{ line-height: 1.65; }}
    .lsf-richtext__line {{ display: inline-block; width: 100%; unicode-bidi: plaintext; text-align: start; }}
    .lsf-choices_layout_inline {{ display: grid; \
grid-template-columns: repeat(auto-fill, minmax(min(100%, {column}rem), 1fr)); }}
    .lsf-choice__item, .lsf-choice__item label {{ line-height: 1.4; overflow-wrap: anywhere; }}
    .lsf-hint {{ white-space: nowrap; }}
    .lsf-choice__item {{ margin: 0 0.5rem {gap}rem 0; }}
    .ant-radio-wrapper-checked {{ pointer-events: none; }}
    @media (max-width: 700px) {{
      .lsf-editor {{ flex: none; width: 100%; min-width: 0; margin: 0; }}
      .lsf-menu-header {{ overflow-x: auto; }}
      .lsf-label-view__table {{ display: none; }}
      .lsf-history-buttons, .lsf-action-buttons, .lsf-current-task__task-id {{ display: none; }}
    }}</Style>
{shown}
  <Header value="{question}" size="5" style="margin: 0"/>
{hint}  <Choices name="{choices}" toName="{text}" {kind} showInline="{inline}">
{options}
  </Choices>
  <Header value="The sign beside a class is its key{keyless}. Ctrl+Enter submits, on a Mac Command+Enter. Skip \
(Ctrl+Space) what you cannot tell." size="6" style="{small}; margin: 1rem 0 0"/>
  <Header value="Why this one: $reason" size="6" style="{small}; margin: 0.5rem 0 0"/>
</View>
"""
# A long text scrolls in its box, so that the classes stay in sight. On the left Label Studio adds 8 px of its own.
_TEXT = """  <View style="{place}padding: 0.75rem 1.25rem 0.75rem 0.75rem; border: 1px solid rgba(128, 128, 128, 0.4); \
border-radius: 8px; font-size: 1.1rem; white-space: pre-wrap; overflow-wrap: anywhere; \
max-height: {height}vh; overflow-y: auto">
    <Text name="{name}" value="${name}" valueType="text"/>
  </View>"""
_CHOSEN = "A class that is chosen already"
_HINT = f'''  <Header value="{_CHOSEN} is the model's suggestion: change it where it is wrong. Its key \
takes it back." size="6" style="{{small}}; margin: 0"/>
'''
# Every text has its heading, so that the label config of a pair can be told from one for other keys.
_NAMED = """  <View style="flex: 1 1 13rem; min-width: 0; display: flex; flex-direction: column">
    <Header value={heading} size="6" style="{small}; margin: 0 0 0.25rem; overflow-wrap: anywhere"/>
{text}
  </View>"""
_ONE = 'choice="single-radio" required="true" requiredMessage="Choose a class, or skip the text."'
_SEVERAL = 'choice="multiple"'
_SMALL = "font-size: 0.95rem; font-weight: 400; opacity: 0.8"
# Characters that XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a labeling page offers and shows.

    Attributes:
        classes: class names as annotators see them; the order is the order on the page.
        texts: what the texts are that stand side by side, at most 4, two make a pair; of one it is not shown.
        image: an image stands above the texts.
        multi_label: any number of classes may be chosen, else exactly one.
        suggest: tasks have suggestions, and the page says what a class is that is chosen already.

    Raises:
        SettingsError: a class name cannot be shown as it is, or the number of texts is out of range.
    """

    classes: tuple[str, ...]
    texts: tuple[str, ...] = ()
    image: bool = False
    multi_label: bool = False
    suggest: bool = True

    def __post_init__(self) -> None:
        for name in self.classes:
            if _NOT_XML.search(name) or not name.strip():
                raise SettingsError(
                    f"class {name!r} is blank or holds a control character; Label Studio cannot show it"
                )
            if re.search(r"\$\w", name):
                raise SettingsError(
                    f"class {name!r}: Label Studio takes '$' before a letter or digit for a variable; rename it"
                )
        if len(self.texts) > MOST_TEXTS:
            raise SettingsError(f"{len(self.texts)} texts cannot stand side by side; a page takes 1 to {MOST_TEXTS}")

    @property
    def variables(self) -> tuple[str, ...]:
        """Keys of the task's data that the page must show."""
        return (*(text_key(place) for place in range(self.count)), *((IMAGE,) if self.image else ()))

    @property
    def count(self) -> int:
        """Texts on the page."""
        return max(1, len(self.texts))

    @property
    def headings(self) -> tuple[str, ...]:
        """What stands above the texts, as XML can hold it and without what Label Studio takes for a variable."""
        return tuple(_NOT_XML.sub("", name).replace("$", "") for name in self.texts) if self.count > 1 else ()


def label_config(page: Page) -> str:
    """The labeling page for a choice among the classes.

    Label Studio gives the choices their keys itself: 1 to 9, then 0, q, w, e and so on, as far as they reach.
    """
    many = len(page.classes) >= _MANY
    height = 30 if page.image or many else 50
    place = "flex: 1; " if page.headings else "margin: 1rem 0; "
    texts = [_TEXT.format(name=text_key(n), place=place, height=height) for n in range(page.count)]
    shown = texts[0]
    if page.headings:
        named = zip(page.headings, texts, strict=True)
        shown = "\n".join(_NAMED.format(heading=quoteattr(name), text=text, small=_SMALL) for name, text in named)
        shown = f'  <View style="display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0">\n{shown}\n  </View>'
    if page.image:
        shown = f'  <Image name="{IMAGE}" value="${IMAGE}" maxHeight="320px" zoom="true" zoomControl="true"/>\n{shown}'
    longest = max(map(_letters, page.classes), default=0)
    below = longest > _LONG_NAME and len(page.classes) < _IN_COLUMNS
    options = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in page.classes)
    return _PAGE.format(
        width="54rem" if page.count == 1 else "80rem",
        shown=shown,
        text=TEXT,
        choices=LABEL,
        gap=0.2 if many else 0.6,
        question="Which classes fit? Where none does, submit without one." if page.multi_label else "Which class fits?",
        hint=_HINT.format(small=_SMALL) if page.suggest else "",
        kind=_SEVERAL if page.multi_label else _ONE,
        inline="false" if below else "true",
        column=min(_COLUMN_REM, round(_AROUND_REM + longest * _LETTER_REM, 2)),
        options=options,
        keyless="; click a class that has none" if len(page.classes) > _KEYS else "",
        small=_SMALL,
    )


def _letters(name: str) -> int:
    """How wide a name is, in Latin letters; those of Chinese, Japanese and Korean are two wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "FW" else 1 for letter in name)


def updated(config: str, page: Page) -> str:
    """A page as it is on the server with its classes brought up to date, and all else as a person left it.

    So is the order of the classes, behind which new ones stand.

    Returns:
        The changed page; a new one where nobody redesigned the old one, or where that does not show all it must or
        cannot be changed.
    """
    if any(not re.search(rf"\${name}\b", config) for name in page.variables):
        return label_config(page)
    try:
        root = ElementTree.fromstring(config, _with_comments())  # noqa: S314 - the server has read it before, and it is small
    except ElementTree.ParseError:
        return label_config(page)
    found = [choices for choices in root.iter("Choices") if choices.get("name") == LABEL]
    if len(found) != 1 or any(option.tag not in ("Choice", ElementTree.Comment) for option in found[0]):
        return label_config(page)
    # An answer has a choice's alias where there is one: that is then the class, and the value only what people see.
    options = {option.get("alias") or option.get("value"): option for option in found[0] if option.tag == "Choice"}
    places = {name: place for place, name in enumerate(options)}
    page = replace(page, classes=tuple(sorted(page.classes, key=lambda name: places.get(name, len(places)))))
    if _is_ours(config, root, page):
        return label_config(page)  # columns, words and keys go by the classes
    if _takes_several(found[0]) != page.multi_label:
        found[0].set("choice", "multiple" if page.multi_label else "single-radio")
        found[0].set("required", "false" if page.multi_label else "true")
    tail = found[0][0].tail if len(found[0]) else "\n"
    for option in found[0].findall("Choice"):
        found[0].remove(option)
    for name in page.classes:
        option = options.get(name)
        if option is None:
            option = ElementTree.Element("Choice", {"value": name})
        option.tail = tail
        found[0].append(option)
    return ElementTree.tostring(root, encoding="unicode")


def _is_ours(config: str, root: ElementTree.Element, page: Page) -> bool:
    """Whether a page is as it was made for what it offers and shows, in whatever way its XML is written."""
    choices = next(root.iter("Choices"))
    offered = tuple(option.get("value", "") for option in choices.findall("Choice"))
    several = _takes_several(choices)
    try:
        hint = _has_hint(root)
        made = label_config(replace(page, classes=offered, texts=_headings(root), multi_label=several, suggest=hint))
    except SettingsError:
        return False
    one, other = (ElementTree.canonicalize(xml, with_comments=True, strip_text=True) for xml in (config, made))
    return one == other


def _headings(root: ElementTree.Element) -> tuple[str, ...]:
    """What stands above the texts of a page that was made here: all headers but those below the texts."""
    below = _PAGE.count("<Header") + _has_hint(root)
    return tuple(header.get("value", "") for header in root.iter("Header"))[:-below]


def _has_hint(root: ElementTree.Element) -> bool:
    """Whether a page says what a class is that is chosen already."""
    return any(header.get("value", "").startswith(_CHOSEN) for header in root.iter("Header"))


def _with_comments() -> ElementTree.XMLParser:
    return ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))  # noqa: S314 - as in `updated`


def fits(config: str, offered: Sequence[str], page: Page) -> bool:
    """Whether a page on the server offers the classes, in whatever order, as many at once as it must, and shows all.

    One that was made for other texts does not: its headings would be wrong. Nor does one that speaks of suggestions
    where there are none, or does not where there are some.
    """
    shows = all(re.search(rf"\${name}\b", config) for name in page.variables)
    try:
        root = ElementTree.fromstring(config, _with_comments())  # noqa: S314 - as in `updated`
    except ElementTree.ParseError:
        return False
    several = [_takes_several(found) for found in root.iter("Choices") if found.get("name") == LABEL]
    if not shows or set(offered) != set(page.classes) or several != [page.multi_label]:
        return False
    return (_headings(root), _has_hint(root)) == (page.headings, page.suggest) or not _is_ours(config, root, page)


def _takes_several(choices: ElementTree.Element) -> bool:
    return choices.get("choice") == "multiple"
