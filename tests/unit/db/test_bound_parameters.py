"""Every SQL text is a constant and every value a bound parameter, so that no file name can inject SQL.

Checked in the source of all packages, because no test could try every value. A text may be concatenated from
constants; apart from these only names of schemas, types and columns may be inserted, where listed here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.source_tree import PACKAGES, modules, parsed

TAKES_SQL = frozenset({"execute_sql", "SQL", "executescript", "raw", "RawQuery"})
"""Calls whose first argument is SQL; so is that of `execute`, unless it is a query object."""

QUOTED_NAMES = frozenset(
    {
        ("db/migrations/0001_initial.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0002_invalidations.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0003_catalog_rows.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0004_change_times.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0006_orphans.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0007_catalog_row_sightings.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0008_expected_etags.py", "statement.format(schema=schema)"),
        ("db/migrations/0009_orphan_rounds.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0010_small_files.py", "STATEMENT.format(schema=schema)"),
        ("db/models.py", "str(SMALL_BYTES)"),
        ("db/upload_queries.py", "str(SMALL_BYTES)"),
        ("db/migrations/0011_server_dialects.py", "STATEMENT.format(schema=schema, **types)"),
        ("db/migrations/0012_proofs_by_reading.py", "statement.format(schema=schema, new=NEW)"),
        ("db/migrations/0012_proofs_by_reading.py", "f'PRAGMA schema_version = {version + 1}'"),
        ("db/migrations/0013_state_counts.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0014_receipts.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0014_receipts.py", "f'PRAGMA schema_version = {version + 1}'"),
        ("db/migrations/0015_outcomes.py", "statement.format(schema=schema, **types)"),
        ("db/migrations/0016_steering.py", "statement.format(schema=schema, **types)"),
        ("db/models.py", "str(Turn.LATER.value)"),
        ("db/upload_queries.py", "str(Turn.LATER.value)"),
        ("db/upload_queries.py", "str(turn)"),
        ("db/migrations/0017_notifications.py", "statement.format(schema=schema, **types)"),
        ("db/catalog/compressor_table.py", "query.format(table='%s')"),
        ("db/connection_url.py", "text"),
        ("db/postgresql/pool.py", "text"),
        ("db/connection_url.py", "sql"),
        ("db/connection_url.py", "f'ROLLBACK TO SAVEPOINT {self._name}'"),
        ("db/postgresql/pool.py", "f'{self._begin}; {text}; COMMIT'"),
        ("db/postgresql/pool.py", "f'ROLLBACK TO SAVEPOINT {self._name}'"),
    }
)
"""Texts that are not constants: migrations, into which a quoted schema and names of types are inserted;
queries about one table, into which a placeholder is inserted; what peewee has rendered, with placeholders,
alone or as a transaction;
a number of an index's condition; names of savepoints."""


def is_constant(node: ast.expr, known: frozenset[str] = frozenset()) -> bool:
    """Whether an expression consists of literals and of names that are only ever assigned literals."""
    match node:
        case ast.Constant():
            return True
        case ast.Name(id=name):
            return name in known
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return is_constant(left, known) and is_constant(right, known)
        case ast.IfExp(body=body, orelse=orelse):
            return is_constant(body, known) and is_constant(orelse, known)
    return False


def constants_of(tree: ast.Module) -> frozenset[str]:
    """The names that a module assigns only literals to."""
    literal: dict[ast.AST, str] = {}
    stored: dict[ast.AST, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name) as target], value=value) if is_constant(value):
                literal[target] = name
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                stored[node] = name
    other = {name for node, name in stored.items() if node not in literal}
    return frozenset(set(literal.values()) - other)


def unbound(tree: ast.Module) -> Iterator[str]:
    """The source of every SQL text in a module that is not a constant."""
    known = constants_of(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_text = isinstance(node.args[0], (ast.Constant, ast.JoinedStr, ast.BinOp)) or (
            isinstance(node.args[0], ast.Call) and getattr(node.args[0].func, "attr", "") == "format"
        )
        if (name in TAKES_SQL or (name in {"execute", "executemany"} and is_text)) and not is_constant(
            node.args[0], known
        ):
            yield ast.unparse(node.args[0])


def test_every_text_of_sql_is_a_constant_or_a_quoted_name_that_is_listed_here() -> None:
    found = {(module, text) for module in modules(*PACKAGES) for text in unbound(parsed(module))}
    assert found == QUOTED_NAMES


@pytest.mark.parametrize(
    "source",
    [
        "db.execute_sql(f'SELECT {name}')",
        "db.execute_sql('SELECT ' + name)",
        "db.execute_sql('SELECT %s' % name)",
        "db.execute_sql('SELECT {}'.format(name))",
        "db.execute_sql(query)",
        "def ask(query): db.execute_sql(query)",
        "query = 'SELECT 1'\nquery += name\ndb.execute_sql(query)",
        "query = 'SELECT 1'\nquery = name\ndb.execute_sql(query)",
        "table.select(SQL(f'{name} IS NULL'))",
        "peewee.SQL(name)",
        "table.raw(f'SELECT {name}')",
        "connection.execute(f'DELETE FROM {name}')",
        "connection.execute('DELETE FROM {}'.format(name))",
    ],
)
def test_a_text_with_a_value_in_it_is_found(source: str) -> None:
    assert list(unbound(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "db.execute_sql('SELECT %s', (name,))",
        "query = 'SELECT %s'\ndb.execute_sql(query, (name,))",
        "SQL('%s', (retention,))",
        "db.execute_sql('SELECT ' + 'TRUE')",
        "connected.execute(NodeList((SQL('CREATE SCHEMA'), Entity(schema))))",
    ],
)
def test_a_text_whose_values_are_bound_is_not(source: str) -> None:
    assert not list(unbound(ast.parse(source)))


def test_the_schema_in_a_migration_is_quoted_so_that_it_cannot_end_its_name() -> None:
    """Every migration that inserts the schema into its text doubles the quotes in it."""
    listed = {module for module, _ in QUOTED_NAMES if module.startswith("db/migrations/")}
    assert listed
    for module in listed:
        assert ast.unparse(
            ast.parse("""'"{}".'.format(migrator.schema.replace('"', '""'))""")
        ) in ast.unparse(parsed(module))
