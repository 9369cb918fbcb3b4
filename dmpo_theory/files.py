"""Files that are written whole or not at all, and what to say when they cannot be."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_ROOM = "free some space there, or give a path on another disk; then the same command again"
_RIGHTS = "make it writable, or give another path"
REMEDIES: Mapping[int, str] = {
    **{errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EFBIG: _ROOM},
    **{errno.EROFS: _RIGHTS, errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS},
}
"""What to do about an error of the system."""


def explained(error: OSError, path: Path | None = None) -> str:
    """What went wrong, where and what to do about it; ``path`` where the system does not say where."""
    where = error.filename if path is None else path
    remedy = REMEDIES.get(error.errno or 0)
    return str(error) if remedy is None or where is None else f"{where}: {error.strerror}; {remedy}"


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write, that takes the place of ``path`` in the end: it holds the old or the new, whole.

    Raises:
        OSError: it cannot be written; the message names it and the remedy, and ``path`` is as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.errno in REMEDIES:
            raise OSError(explained(error, path)) from error
        raise


@contextmanager
def whole(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """An open file to write, as :func:`beside`.

    Args:
        path: the file.
        binary: bytes; text in UTF-8 by default, with line ends as they are given.

    Raises:
        OSError: as :func:`beside`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole(Path(folder) / "a.csv") as file:
        ...         _ = file.write("a,b")
        ...     (Path(folder) / "a.csv").read_text()
        'a,b'
    """
    with beside(path) as part, part.open("wb") if binary else part.open("w", newline="", encoding="utf-8") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """``text`` in the place of ``path``, as :func:`whole`."""
    with whole(path) as file:
        file.write(text)


def vacant(folder: Path) -> bool:
    """Whether there is nothing in ``folder`` but what is left of writing by a process that was killed."""
    return not folder.exists() or (folder.is_dir() and all(path.suffix == ".part" for path in folder.iterdir()))


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """A matplotlib figure in the place of ``path``, whose suffix says in which format, as :func:`whole`."""
    with whole(path, binary=True) as file:
        figure.savefig(file, format=path.suffix[1:], **options)
