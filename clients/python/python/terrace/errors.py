"""Exceptions of the client.

A failed read is never reported as a miss: it raises one of these exceptions.
"""

from __future__ import annotations

from ._types import Duration

__all__ = [
    "DeadlineExceeded",
    "DecodeError",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "LoadFailed",
    "NotFound",
    "OutcomeUnknown",
    "PermissionDenied",
    "ResourceExhausted",
    "TerraceError",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]


class TerraceError(Exception):
    """Base class of the exceptions of operations.

    ``retry_after`` is the time in seconds after which a repetition may succeed, if the server or the client knows it.
    """

    #: A repetition later may succeed without a change of the request.
    is_retryable = False

    def __init__(self, message: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(TerraceError):
    """No node can answer, or L2 is unreachable and L1 cannot answer. A write was not applied."""

    is_retryable = True


class DeadlineExceeded(TerraceError, TimeoutError):
    """The deadline has passed. A write was not sent."""

    is_retryable = True


class ResourceExhausted(TerraceError):
    """A value or a batch exceeds a limit, or the server or the client is overloaded. The message names the limit."""

    @property
    def is_retryable(self) -> bool:  # type: ignore[override]
        """The server has named a time after which a repetition may succeed."""
        return self.retry_after is not None


class InvalidArgument(TerraceError, ValueError):
    """A key, TTL, tag or option is invalid. The message names it."""


class FailedPrecondition(TerraceError):
    """The key holds a value of another type, or the nodes use different stores."""


class DecodeError(FailedPrecondition, ValueError):
    """The codec cannot decode a value. ``__cause__`` is the exception of the codec."""


class PermissionDenied(TerraceError):
    """The user of the client lacks a permission."""


class Unauthenticated(TerraceError):
    """The server does not accept the token or the certificate of the client."""


class Unimplemented(TerraceError):
    """The server, its L2 or its configuration does not support the operation."""


class OutcomeUnknown(TerraceError):
    """A write was sent, and its result is unknown: it may have been applied."""


class LoadFailed(TerraceError):
    """The loader of another process failed. A loader of this process raises its own exception to all its callers."""

    is_retryable = True


class Internal(TerraceError):
    """A fault of the server or of the client."""


class NotFound(LookupError):
    """The origin does not have the key.

    A loader raises it; ``ttl`` is the time for which the cache stores this answer (default: ``negative_ttl``).
    ``get_or_load`` raises it to all callers that have no ``default``.
    """

    def __init__(self, message: str = "the origin does not have the key", *, ttl: Duration | None = None) -> None:
        super().__init__(message)
        self.ttl = ttl
