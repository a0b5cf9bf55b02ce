"""SQL expressions that a person types, taken apart by DuckDB's own parser: one expression, and what stands in it."""

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from warehouse.errors import SettingsError

Node = dict[str, Any]
CLOCK = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
"""Functions that are written without brackets, and parsed as if they were columns."""
_CLAUSES = ("where_clause", "having", "qualify", "sample", "group_expressions", "modifiers")


def expression_tree(connection: duckdb.DuckDBPyConnection, expression: str) -> Node:
    """One expression as DuckDB parses it.

    Raises:
        SettingsError: it cannot be parsed or is more than one expression; the message is a reason without a full stop.
    """
    # On a line of its own, so that a comment at its end does not swallow the bracket.
    query = f"SELECT ({expression}\n) AS expression"
    tree = json.loads(connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])
    if tree.get("error_type") == "parser":
        raise SettingsError(str(tree.get("error_message")))
    # A statement that is no SELECT is an error of another kind.
    node = tree["statements"][0]["node"] if len(tree.get("statements", ())) == 1 else {}
    # One bracket too many would end the expression and begin something else.
    if node.get("type") != "SELECT_NODE" or len(node["select_list"]) != 1 or _more_than_select(node):
        raise SettingsError("this is more than one expression")
    return node["select_list"][0]


def walk(tree: Any) -> Iterator[Node]:
    """Every node of a tree, the outer ones first."""
    if isinstance(tree, dict):
        yield tree
        for part in tree.values():
            yield from walk(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from walk(part)


def functions(tree: Any) -> Iterator[str]:
    """Names of the functions in a tree in lower case, operators left out."""
    for part in walk(tree):
        if part.get("class") == "FUNCTION" and not part.get("is_operator"):
            yield part["function_name"].lower()
        if part.get("class") == "COLUMN_REF" and part["column_names"][-1].lower() in CLOCK:
            yield part["column_names"][-1].lower()


def _more_than_select(node: Node) -> bool:
    from_table = node.get("from_table") or {}
    return from_table.get("type") not in (None, "EMPTY") or any(node.get(clause) for clause in _CLAUSES)
