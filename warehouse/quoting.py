"""Texts in SQL that takes no parameters, such as ATTACH and SET."""


def quote(text: object) -> str:
    """A text as a SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"
