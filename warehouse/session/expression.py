"""SQL expressions that a person types, taken apart by DuckDB's own parser: one expression, and what stands in it.

What a macro does stands in its definition, so the nodes of an expression include those of the macros that it calls.
"""

import functools
import json
from collections.abc import Iterator
from typing import Any

import duckdb

from warehouse.errors import SettingsError
from warehouse.session.duckdb import open_in_utc

Node = dict[str, Any]
_CLOCK = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
_WHO = frozenset({"current_catalog", "current_role", "current_schema", "current_user", "session_user", "user"})
_WITHOUT_BRACKETS = _CLOCK | _WHO  # parsed as if they were columns
# Of these DuckDB says that they are CONSISTENT, or says nothing since they are macros without a function in them.
_UNMARKED = frozenset(
    {"current_localtime", "current_localtimestamp", "current_setting", "getenv", "getvariable", "version"}
)
# error() is marked too, so that DuckDB does not evaluate it ahead.
_KNOWN = """
    SELECT function_name, macro_definition FROM duckdb_functions()
    WHERE function_type = 'macro'
    OR (function_type = 'scalar' AND stability <> 'CONSISTENT' AND function_name <> 'error')
"""
_ARROWS = frozenset({"->", "->>"})
_TRUTH = frozenset({"CONJUNCTION", "COMPARISON", "BETWEEN"})
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


def walk_macros(connection: duckdb.DuckDBPyConnection, tree: Node) -> Iterator[tuple[str, Node]]:
    """Every node of a tree and of the definitions of the macros in it, each with the macro that led to it or ''."""
    macros = _known()[1]
    waiting, opened = [("", tree)], set[str]()
    while waiting:
        named, tree = waiting.pop()
        for node in walk(tree):
            yield named, node
            if (name := called(node)) in macros and name not in opened:
                opened.add(name)
                waiting += [(named or name, expression_tree(connection, definition)) for definition in macros[name]]


def called(node: Node) -> str:
    """Name of the function that a node calls, in lower case; empty for operators and all else."""
    if node.get("class") == "FUNCTION" and not node.get("is_operator"):
        return node["function_name"].lower()
    if node.get("class") == "COLUMN_REF" and (name := node["column_names"][-1].lower()) in _WITHOUT_BRACKETS:
        return name
    return ""


def loose_arrow(tree: Any) -> str:
    """What to write where `->>` takes a key out of a truth value; empty where it does not.

    DuckDB reads `a AND metadata->>'k' = 'x'` as `(a AND metadata)->>'k' = 'x'`, which fails on every row.
    """
    for node in walk(tree):
        if node.get("class") == "FUNCTION" and (arrow := node["function_name"]) in _ARROWS and node["children"]:
            left = node["children"][0]
            if left.get("class") in _TRUTH or left.get("type") == "OPERATOR_NOT":
                return (
                    f"DuckDB joins {arrow} more loosely than NOT, AND and =. Put it in brackets wherever something "
                    f"stands before it, as in: length(content) < 200 AND (metadata{arrow}'key') = 'x'"
                )
    return ""


def loose_arrow_in(query: str) -> str:
    """`loose_arrow` of whole statements; empty where one is no SELECT."""
    with open_in_utc() as connection:
        tree = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
    return loose_arrow(json.loads(tree))


def unstable(connection: duckdb.DuckDBPyConnection, tree: Node) -> Iterator[str]:
    """What makes an expression another one each time, for other people or on other machines, in words."""
    marked = _known()[0]
    for macro, node in walk_macros(connection, tree):
        name = called(node)
        if name in marked:
            yield f"{macro or name}()"
        if name == "age" and len(node["children"]) == 1:
            yield "age() with one argument"
        if node.get("sample"):
            yield "a sample"
        kinds = {modifier["type"] for modifier in node.get("modifiers") or ()}
        if kinds & {"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER"} and "ORDER_MODIFIER" not in kinds:
            yield "LIMIT without ORDER BY"


@functools.cache
def _known() -> tuple[frozenset[str], dict[str, list[str]]]:
    """Names of unstable functions, and definitions by name of macros; DuckDB takes 10 ms to list them."""
    marked, macros = _WITHOUT_BRACKETS | _UNMARKED, dict[str, list[str]]()
    with open_in_utc() as connection:
        for name, definition in connection.execute(_KNOWN).fetchall():
            if definition is None:
                marked |= {name}
            else:
                macros.setdefault(name, []).append(definition)
    return marked, macros


def _more_than_select(node: Node) -> bool:
    from_table = node.get("from_table") or {}
    return from_table.get("type") not in (None, "EMPTY") or any(node.get(clause) for clause in _CLAUSES)
