"""Named sets of arrays in a folder, each file whole and known to be whole, or not used.

A file is the BLAKE2b digest of what follows, then an uncompressed .npz. No pickles.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxproc.formats.atomic import atomic

SUFFIX, DAMAGED = ".state", ".damaged"
DIGEST_bytes = 64


@dataclass(frozen=True)
class Checkpoint:
    """A store of arrays by key; keys may have subfolders, as in "round-003/refine-00007".

    Processes may share a folder as long as no two write the same key. notes : what this process
    found damaged, a sentence each, for the log.
    """

    folder: Path
    notes: list[str] = field(default_factory=list)

    def save(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep the arrays under a key, in place of what was there. Raises OutputError if they
        cannot be written, ValueError for arrays of objects."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        path = self._path(key)
        with atomic(path) as temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as handle:
                handle.write(_digest(content.getbuffer()))
                handle.write(content.getbuffer())

    def load(self, key: str) -> dict[str, NDArray[Any]] | None:
        """The arrays kept under a key; None if there are none. A damaged file counts as none: it
        is renamed to KEY.damaged and noted."""
        path = self._path(key)
        try:
            data = memoryview(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._set_aside(path, error.strerror or str(error))
            return None
        if data[:DIGEST_bytes] != _digest(data[DIGEST_bytes:]):
            self._set_aside(path, "it is not as it was written")
            return None
        with np.load(io.BytesIO(data[DIGEST_bytes:]), allow_pickle=False) as archive:
            return dict(archive)

    def keys(self, prefix: str = "") -> list[str]:
        """All keys that begin with the prefix, sorted."""
        paths = self.folder.rglob(f"*{SUFFIX}")
        keys = (path.relative_to(self.folder).as_posix().removesuffix(SUFFIX) for path in paths)
        return sorted(key for key in keys if key.startswith(prefix))

    def drop(self, prefix: str) -> None:
        """Remove all keys that begin with the prefix."""
        for key in self.keys(prefix):
            self._path(key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all that stores keep, what is damaged and what was not written to its end."""
        for pattern in (f"*{SUFFIX}", f"*{DAMAGED}", f".*{SUFFIX}.*.part"):
            for path in self.folder.rglob(pattern):
                path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _set_aside(self, path: Path, why: str) -> None:
        renamed = path.with_suffix(DAMAGED)
        try:
            path.replace(renamed)
        except OSError:
            renamed = path
        self.notes.append(f"'{renamed}' is damaged and not used ({why}).")


def _digest(data: memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_bytes).digest()
