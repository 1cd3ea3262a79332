"""Statements that peewee renders once, and that are run many times with bound values.

Making a query and rendering it costs peewee several times what a database needs to run it. So each method
that `statement` decorates makes a query of its arguments as usual, but is called with a `Parameter` in place
of every value, once for each shape of the query. What is kept is the text and, in the order of its
placeholders, which value goes there and how its column converts it. What the method belongs to has a
`database`, on which the statement is run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from peewee import IntegerField, Node, TextField

MAX_SHAPES = 256
"""How many shapes of one statement are kept."""
MAX_LIST = 64
"""The length up to which each length of a list is a shape of its own that is kept."""


_PLAIN = {TextField: str, IntegerField: int}


class Result(NamedTuple):
    """What a statement returned: its rows, how many rows it changed, and the id of an inserted row."""

    rows: list[tuple[Any, ...]]
    changed: int
    last_id: Any


class Parameter(Node):
    """Stands in a query for a value that is bound later: `name` is the argument, `index` its item, if any."""

    def __init__(self, name: str, index: int | None = None, column: Any = None) -> None:
        self.name = name
        self.index = index
        self.convert: Callable[[Any], Any] | None = None if column is None else column.db_value

    def __sql__(self, ctx: Any) -> Any:
        # In a condition peewee says how the column that is compared converts its values.
        convert = self.convert or ctx.state.converter
        column = getattr(convert, "__self__", None)
        plain = next((kind for of_field, kind in _PLAIN.items() if isinstance(column, of_field)), None)
        slot = _Slot(self.name, self.index, convert, plain)
        return ctx.value(None, lambda _: slot)


def assigned(model: Any, values: Mapping[str, Any]) -> dict[Any, Any]:
    """The values by column, as an INSERT or the SET of an UPDATE takes them.

    peewee tells a parameter there nothing about its column.
    """
    by_column = {getattr(model, name): value for name, value in values.items()}
    return {
        column: Parameter(value.name, value.index, column) if type(value) is Parameter else value
        for column, value in by_column.items()
    }


class _Slot(NamedTuple):
    """Which argument a placeholder stands for. `convert` takes None for None."""

    name: str
    item: int | None
    convert: Callable[[Any], Any] | None
    plain: type | None
    """The type of values that `convert` would return as they are."""


class _Rendered(NamedTuple):
    """The text of a shape of a statement, its parameters, and the slots of values among them by place."""

    text: str
    parameters: tuple[Any, ...]
    slots: tuple[tuple[int, str, int | None, Callable[[Any], Any] | None, type | None], ...]


class Statement:
    """A query that is rendered once for each shape.

    Positional arguments make the shape, together with the lengths of the lists among the named ones and with
    which of these are None, because peewee words ``IS NULL`` for None. All other named arguments are values.
    """

    def __init__(self, operation: str, make: Callable[..., Any], owner: Any = None) -> None:
        self.operation = operation
        self.make = make
        self._owner = owner
        self._rendered: dict[Any, _Rendered] = {}

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, _owner: type | None = None) -> Self:
        if instance is None:
            return self
        # Found in the instance from now on, without this method.
        bound: Self = type(self)(self.operation, self.make, instance)
        vars(instance)[self._name] = bound
        return bound

    def run(self, *shape: Any, **values: Any) -> Result:
        """Run the statement on this thread's connection. Raises DatabaseError."""
        text, parameters = self.bind(*shape, **values)
        return Result(*self._owner.database.run(self.operation, text, parameters))

    def value(self, *shape: Any, **values: Any) -> Any:
        """The first column of the first row, not converted; None if there is no row."""
        rows = self.run(*shape, **values).rows
        return rows[0][0] if rows else None

    def bind(self, *shape: Any, **values: Any) -> tuple[str, list[Any]]:
        """The text of the statement, and its values in the order of the placeholders, converted."""
        lengths = [
            None if value is None else len(value) if type(value) is list else -1 for value in values.values()
        ]
        key = (shape, tuple(values), tuple(lengths))
        rendered = self._rendered.get(key) or self._render(key, shape, values)
        bound = list(rendered.parameters)
        for place, name, item, convert, plain in rendered.slots:
            value = values[name] if item is None else values[name][item]
            if convert is not None and value is not None and type(value) is not plain:
                value = convert(value)
            bound[place] = value
        return rendered.text, bound

    def _render(self, key: Any, shape: Sequence[Any], values: Mapping[str, Any]) -> _Rendered:
        query = self.make(self._owner, *shape, **{name: _stand_in(name, values[name]) for name in values})
        text, parameters = query.sql()
        slots = tuple((place, *slot) for place, slot in enumerate(parameters) if type(slot) is _Slot)
        rendered = _Rendered(text, tuple(parameters), slots)
        if all(length is None or length <= MAX_LIST for length in key[2]):
            if len(self._rendered) >= MAX_SHAPES:
                self._rendered.clear()
            self._rendered[key] = rendered
        return rendered


def statement(operation: str) -> Callable[[Callable[..., Any]], Statement]:
    """Make a `Statement` of a method that returns a query; `operation` is its name in error messages."""
    return lambda make: Statement(operation, make)


def _stand_in(name: str, value: Any) -> Any:
    if type(value) is list:
        return [Parameter(name, index) for index in range(len(value))]
    return None if value is None else Parameter(name)
