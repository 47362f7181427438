"""The stored value of a key: a response, the names of `Vary`, or that a response cannot be stored.

Version 1, in big endian: magic, kind, status, time of the response (ms since 1970), its age when it was received, TTL,
stale-while-revalidate and stale-if-error (s), number of fields; lengths of names and values; names and values; body.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ._fields import Headers

RESPONSE, VARY, PASS = range(3)

_MAGIC = b"\x89TH1"
_HEAD = struct.Struct(">4sBHQIIIIH")
_PAIR = struct.Struct(">HI")
_U32 = (1 << 32) - 1


@dataclass(slots=True)
class Record:
    """A stored record. Times are seconds."""

    kind: int
    status: int = 0
    stored_at: float = 0.0
    age: float = 0.0
    ttl: float = 0.0
    revalidate: float = 0.0
    if_error: float = 0.0
    headers: Headers = field(default_factory=list)
    body: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes of the record."""
        spans = [min(int(span), _U32) for span in (self.age, self.ttl, self.revalidate, self.if_error)]
        head = _HEAD.pack(_MAGIC, self.kind, self.status, int(self.stored_at * 1_000), *spans, len(self.headers))
        lengths = (_PAIR.pack(len(name), len(value)) for name, value in self.headers)
        fields = (part for pair in self.headers for part in pair)
        return b"".join((head, *lengths, *fields, self.body))

    def age_at(self, now: float) -> float:
        """Return the age of the response (RFC 9111 4.2.3). Clocks of machines may differ: it is not negative."""
        return self.age + max(0.0, now - self.stored_at)


def decode(data: bytes) -> Record | None:
    """Return the record of these bytes; ``None`` if they are not a record of this version."""
    try:
        magic, kind, status, stored_at, age, ttl, revalidate, if_error, count = _HEAD.unpack_from(data)
        if magic != _MAGIC or kind > PASS:
            return None
        place = _HEAD.size + count * _PAIR.size
        headers = []
        for number in range(count):
            name_size, value_size = _PAIR.unpack_from(data, _HEAD.size + number * _PAIR.size)
            value_at = place + name_size
            headers.append((data[place:value_at], data[value_at : value_at + value_size]))
            place = value_at + value_size
    except struct.error:
        return None
    if place > len(data):
        return None
    return Record(kind, status, stored_at / 1_000, age, ttl, revalidate, if_error, headers, data[place:])


class RecordCodec:
    """Codec of records. Copies of a near cache are decoded once."""

    def encode(self, value: Record, /) -> bytes:
        """Return the bytes of a record."""
        return value.encode()

    def decode(self, data: bytes, /) -> Record | None:
        """Return the record; ``None`` for bytes that are not a record, which is a miss."""
        return decode(data)
