"""The labeling page that annotators see in Label Studio, as its XML: the text, the classes, and why this text.

Texts, reasons and suggestions come in as task data, which Label Studio shows as text; only class names stand in the
XML, so only they are escaped and checked here.
"""

import re
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from active.service import LABEL, TEXT
from warehouse import SettingsError

# `lsf-richtext*` are Label Studio's own class names of the text; where it renames them only the line height is lost.
_PAGE = """<View style="max-width: 54rem; margin: 0 auto; padding: 0 1rem">
  <Style>.lsf-richtext__container, .lsf-richtext__line {{ line-height: 1.65; }}</Style>
  <View style="margin: 1rem 0; padding: 0.75rem; border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 8px; \
font-size: 1.1rem; white-space: pre-wrap; overflow-wrap: anywhere">
    <Text name="{text}" value="$text" valueType="text"/>
  </View>
  <Header value="Which class fits?" size="5" style="margin: 0"/>
  <Choices name="{choices}" toName="{text}" choice="single-radio" showInline="true" required="true" \
requiredMessage="Choose a class, or skip the text.">
{options}
  </Choices>
  <Header value="Why this text: $reason (value $value)" size="6" style="{small}; margin: 1rem 0 0"/>
  <Header value="A class that is chosen already is the model's suggestion." size="6" style="{small}; margin: 0"/>
</View>
"""
_SMALL = "font-size: 0.95rem; font-weight: 400; opacity: 0.8"
# Characters that XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def label_config(classes: Sequence[str]) -> str:
    """The labeling page for one choice among these classes.

    Label Studio gives the choices their keys itself: 1 to 9, then 0, q, w, e and so on.

    Args:
        classes: class names as annotators see them; the order is the order on the page.

    Raises:
        SettingsError: a name cannot be shown as it is.
    """
    for name in classes:
        if _NOT_XML.search(name) or not name.strip():
            raise SettingsError(f"class {name!r} is blank or holds a control character; Label Studio cannot show it")
        if re.search(r"\$\w", name):
            raise SettingsError(
                f"class {name!r}: Label Studio takes '$' before a letter or digit for a variable; rename it"
            )
    options = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return _PAGE.format(text=TEXT, choices=LABEL, options=options, small=_SMALL)
