"""The errors of qatrack_ext, by blame.

QATrack+ shows a message as the tooltip of a small red button: each is one line that stands alone and says what to do.
Every class also derives from the built-in that users of pynetdicom_wrapper catch (ValueError, ConnectionError,
RuntimeError), and none from anything outside Exception, which is all that QATrack+ catches.
"""

from __future__ import annotations

from typing import Dict, Optional, Sequence, Tuple, Type


class Error(Exception):
    """Base of all errors of qatrack_ext.

    ``kind`` is a stable word to decide by ("malformed", "not_found", …), ``hint`` the remedy, ``offset`` the byte at
    which a file is wrong, ``path`` the file; None where there is nothing to say. ``missing`` holds the SOP Instance UIDs
    of all images that did not arrive; the message names a few.
    """

    kind: str = "error"
    hint: Optional[str] = None
    offset: Optional[int] = None
    path: Optional[str] = None
    missing: Tuple[str, ...] = ()


class MalformedError(Error, ValueError):
    """Bytes that are not what their format says."""

    kind = "malformed"


class MisuseError(Error, ValueError):
    """A call, or a setting, that cannot work; the message names the argument or the key."""

    kind = "misuse"


class UnsupportedError(Error, ValueError):
    """Well-formed, but of a kind we do not handle."""

    kind = "unsupported"


class LimitError(Error, ValueError):
    """Larger than a documented limit."""

    kind = "limit"


class NotFoundError(Error, RuntimeError):
    """Nothing matches: no such plan, no image, no log, no state."""

    kind = "not_found"


class IncompleteError(Error, RuntimeError):
    """Only a part has arrived; a part is never handed out."""

    kind = "incomplete"


class PeerError(Error, ConnectionError):
    """The archive, the linac or the share does not answer, or answers against the standard."""

    kind = "peer_misbehaved"


class IoError(Error, OSError):
    """A file that cannot be read or written; ``path`` says which."""

    kind = "io"


class AnalysisError(Error, RuntimeError):
    """The analysis could not be run, or failed; the message is the analysis program's own."""

    kind = "analysis"


class InternalError(Error, RuntimeError):
    """A bug of ours, caught at the boundary so that it takes nothing else down."""

    kind = "internal"


# Every word that `kind` can have, and its class. Words are stable; scripts decide by them.
_BY_KIND: Dict[str, Type[Error]] = {
    "malformed": MalformedError,
    "misuse": MisuseError,
    "settings": MisuseError,
    "unsupported": UnsupportedError,
    "limit": LimitError,
    "not_found": NotFoundError,
    "incomplete": IncompleteError,
    "peer_misbehaved": PeerError,
    "unreachable": PeerError,
    "timeout": PeerError,
    "cancelled": PeerError,
    "io": IoError,
    "analysis": AnalysisError,
    "internal": InternalError,
}


def make(
    kind: str,
    message: str,
    hint: Optional[str] = None,
    offset: Optional[int] = None,
    path: Optional[str] = None,
    missing: Sequence[str] = (),
) -> Error:
    """The error of a kind; its text is the message and, in parentheses, the hint, on one line."""
    text = " ".join(message.split())
    if hint:
        hint = " ".join(hint.split())
        text = "{} ({})".format(text, hint)
    error = _BY_KIND.get(kind, Error)(text)
    error.kind = kind
    error.hint = hint
    error.offset = offset
    error.path = path
    error.missing = tuple(missing)
    return error
