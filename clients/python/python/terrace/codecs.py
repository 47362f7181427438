"""Codecs: how objects become the bytes that the cache stores."""

from __future__ import annotations

import json
import pickle
from typing import Any, Generic, Protocol, TypeVar, overload

__all__ = ["Codec", "Json", "Pickle", "Raw", "Text", "codec_for"]

T = TypeVar("T")


class Codec(Protocol[T]):
    """Converts values. Any object with these two methods is a codec.

    ``decode`` raises an exception for bytes that it cannot read: ``get_or_load`` loads the key then, and reads raise
    ``DecodeError``.
    """

    def encode(self, value: T, /) -> bytes:
        """Return the bytes of a value."""

    def decode(self, data: bytes, /) -> T:
        """Return the value of these bytes."""


class Raw:
    """Bytes as they are, where the client has another codec."""

    def encode(self, value: bytes, /) -> bytes:
        """Return the bytes."""
        return value

    def decode(self, data: bytes, /) -> bytes:
        """Return the bytes."""
        return data


#: Bytes as they are: the codec of reads and writes that must not use the codec of the client.
RAW = Raw()


class Text:
    """Text in UTF-8."""

    def encode(self, value: str, /) -> bytes:
        """Return the bytes of a text."""
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        """Return the text of these bytes."""
        return data.decode()


class Pickle:
    """Any object that :mod:`pickle` can store.

    Whoever can write to the cache can run code in each process that reads with this codec: use it only if all clients
    of the cache are trusted equally. Other languages cannot read the values.
    """

    def __init__(self, protocol: int = pickle.DEFAULT_PROTOCOL) -> None:
        self._protocol = protocol

    def encode(self, value: Any, /) -> bytes:
        """Return the bytes of an object."""
        return pickle.dumps(value, self._protocol)

    def decode(self, data: bytes, /) -> Any:
        """Return the object of these bytes."""
        return pickle.loads(data)


class Json(Generic[T]):
    """JSON, of a type.

    ``Json()`` has the values that :mod:`json` has. ``Json(User)`` converts to a type: with msgspec if it is installed
    and supports the type (dataclasses, attrs, TypedDict, msgspec.Struct), with pydantic for its models and for types
    that msgspec does not support. Without both packages, only ``str``, ``int``, ``float``, ``bool``, ``list`` and
    ``dict`` are supported.

    Raises ``TypeError`` for a type that no installed package supports.

    >>> terrace.Json(dict[str, int]).decode(b'{"a": 1}')
    {'a': 1}
    """

    @overload
    def __init__(self: Json[Any]) -> None: ...
    @overload
    def __init__(self, type: type[T]) -> None: ...
    @overload
    def __init__(self: Json[Any], type: Any) -> None: ...
    def __init__(self, type: Any = None) -> None:
        encode, decode = _json_functions(type)
        # They replace the methods below, which would cost one more call per value.
        vars(self).update(encode=encode, decode=decode)

    def encode(self, value: T, /) -> bytes:
        """Return the JSON text of a value."""
        raise NotImplementedError

    def decode(self, data: bytes, /) -> T:
        """Return the value of a JSON text."""
        raise NotImplementedError


def _json_functions(type: Any) -> tuple[Any, Any]:
    if type is None or type is Any:
        return _plain_json()
    if not hasattr(type, "__get_pydantic_core_schema__"):
        functions = _msgspec_json(type)
        if functions is not None:
            return functions
    functions = _pydantic_json(type)
    if functions is not None:
        return functions
    if type in (str, int, float, bool, list, dict, None.__class__):
        return _checked_plain_json(type)
    raise TypeError(f"JSON of {type!r} requires msgspec or pydantic; install one of them, or use Json() without a type")


def _plain_json() -> tuple[Any, Any]:
    def encode(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    return encode, json.loads


def _checked_plain_json(type: Any) -> tuple[Any, Any]:
    encode, loads = _plain_json()

    def decode(data: bytes) -> Any:
        value = loads(data)
        if not isinstance(value, type):
            raise TypeError(f"the value is {value.__class__.__name__}; expected {type.__name__}")
        return value

    return encode, decode


def _msgspec_json(type: Any) -> tuple[Any, Any] | None:
    try:
        import msgspec.inspect
    except ImportError:
        return None
    try:
        if _has_foreign_type(msgspec.inspect.type_info(type), set()):
            return None
        return msgspec.json.Encoder().encode, msgspec.json.Decoder(type).decode
    except (TypeError, NameError):
        # A type that msgspec does not support.
        return None


def _has_foreign_type(info: Any, seen: set[int]) -> bool:
    """Return whether a type contains a type that msgspec does not know, such as a model of pydantic in a list."""
    import msgspec.inspect

    if isinstance(info, msgspec.inspect.CustomType):
        return True
    if isinstance(info, tuple):
        return any(_has_foreign_type(item, seen) for item in info)
    if not isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) or id(info) in seen:
        return False
    # Types can contain themselves.
    seen.add(id(info))
    return any(_has_foreign_type(getattr(info, name), seen) for name in info.__struct_fields__)


def _pydantic_json(type: Any) -> tuple[Any, Any] | None:
    try:
        import pydantic
    except ImportError:
        return None
    try:
        adapter: Any = pydantic.TypeAdapter(type)
    except pydantic.errors.PydanticSchemaGenerationError:
        return None
    return adapter.dump_json, adapter.validate_json


def codec_for(type: Any) -> Any:
    """Return the codec for the values of a type: ``None`` (raw bytes) for bytes, otherwise JSON."""
    return None if type is bytes else Json(type)
