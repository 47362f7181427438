"""Types of arguments."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Literal, TypeAlias

__all__ = ["Data", "Duration", "Key", "OnUnavailable", "Size", "Tags"]

#: A duration: seconds, a ``timedelta`` or a text such as ``"5m"``, ``"1h 30m"`` or ``"250ms"``.
Duration: TypeAlias = float | str | timedelta

#: A number of bytes, or a text such as ``"64MiB"``.
Size: TypeAlias = int | str

#: A key: text is encoded as UTF-8. At most 64 KiB.
Key: TypeAlias = str | bytes | bytearray | memoryview

#: A value without a codec: text is encoded as UTF-8.
Data: TypeAlias = str | bytes | bytearray | memoryview

#: Tags of an entry. At most 16, each at most 128 bytes.
Tags: TypeAlias = Iterable[str | bytes]

#: What ``get_or_load`` does while no node answers.
OnUnavailable: TypeAlias = Literal["load", "stale", "error"]
