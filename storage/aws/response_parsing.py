"""botocore's parsers, kept to their word: what makes no sense in an answer is an error of one kind.

They raise `ResponseParserError` for broken XML, but whatever a conversion happens to raise for a date, a
number or a list that is none.
"""

from collections.abc import Callable, Mapping
from typing import Any

import botocore.session
from botocore.model import Shape
from botocore.parsers import ResponseParserError, ResponseParserFactory

Parse = Callable[[Mapping[str, Any], Shape | None], dict[str, Any]]


class ParserFactory(ResponseParserFactory):
    """Makes parsers that raise nothing but `ResponseParserError`."""

    def create_parser(self, protocol_name: str) -> Any:
        """As botocore's."""
        parser: Any = super().create_parser(protocol_name)
        parser.parse = _kept_to_its_word(parser.parse)
        return parser


def botocore_session() -> botocore.session.Session:
    """A session whose clients parse answers that way."""
    session = botocore.session.Session()
    session.register_component("response_parser_factory", ParserFactory())
    return session


def _kept_to_its_word(parse: Parse) -> Parse:
    def parse_or_refuse(response: Mapping[str, Any], shape: Shape | None) -> dict[str, Any]:
        try:
            return parse(response, shape)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as exc:
            raise ResponseParserError(str(exc)) from exc

    return parse_or_refuse
