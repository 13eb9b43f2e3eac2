"""A path parameter that takes anything, slashes and line ends too: Starlette's own `path` stops at a newline."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class AnyTextConvertor(Convertor[str]):
    """`{name:anytext}`: ids of models hold slashes, and a client may send what is no id at all."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


ANY_TEXT = "anytext"
register_url_convertor(ANY_TEXT, AnyTextConvertor())
