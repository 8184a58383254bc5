"""Compiled functions, and how their machine code is kept on disk.

`compiled` is numba's njit without the interpreter's lock. Numba's own cache goes by the file of a
function alone: where a function that it calls has changed in another file, the old machine code is
run. Here kept code is good for one state of the source, by a digest of all files of the function's
folder and of this one; and for one version of numba and one kind of processor.

There is a file for each function and signature, replaced whole: many processes may read and write
at once. What is not there is compiled by one of them, and the others wait for it: so the ranks of a
job, and jobs that begin together, compile each function once. Where files cannot be locked, all do.

Files lie where NUMBA_CACHE_DIR says, or else in the first of these that can be written:
`__pycache__` beside the source, the user's cache, a folder of the user's own among the temporary
files. Where nothing can be written every process compiles for itself, and a warning says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pickle
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, overload
from uuid import uuid4

import numba
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

RESULT: Any = CompileResult
HERE = Path(__file__).resolve().parent
Function = Callable[..., Any]
Key = tuple[Any, ...]

LONGEST_WAIT_s = 120.0  # for another process that compiles a function


@overload
def compiled(function: Function, /) -> Function: ...


@overload
def compiled(
    *,
    signature: Any = None,
    error_model: Literal["python", "numpy"] = "python",
    inline: Literal["never", "always"] = "never",
) -> Callable[[Function], Function]: ...


def compiled(
    function: Function | None = None,
    /,
    *,
    signature: Any = None,
    error_model: Literal["python", "numpy"] = "python",
    inline: Literal["never", "always"] = "never",
) -> Any:
    """The function compiled without the interpreter's lock, as a decorator with or without options.

    signature : the only one it is to have, compiled at once; otherwise what it is called with.
    error_model : "numpy" divides by zero as NumPy does. inline : "always" into what calls it.
    """

    def decorated(function: Function) -> Any:
        dispatcher: Any = numba.njit(nogil=True, error_model=error_model, inline=inline)(function)
        if not hasattr(dispatcher, "compile"):  # NUMBA_DISABLE_JIT
            return dispatcher
        _keep(dispatcher)
        if signature is not None:
            dispatcher.compile(signature)
            dispatcher.disable_compile()
        return dispatcher

    return decorated if function is None else decorated(function)


def _keep(dispatcher: Any) -> None:
    """Give a function of numba the cache of this module, if its source is a file."""
    source = Path(dispatcher.py_func.__code__.co_filename)
    if not (hasattr(dispatcher, "_cache") and hasattr(RESULT, "_rebuild")):
        dispatcher.enable_caching()  # a numba that is another inside: its own cache will do
    elif source.exists() and (folder := cache_folder(source.resolve().parent)) is not None:
        dispatcher._cache = KeptCode(dispatcher.py_func, folder)


@cache
def source_digest(folder: Path) -> str:
    """Digest of all Python files of a folder and of this one, by name and content."""
    digest = hashlib.sha256()
    for path in sorted({*folder.glob("*.py"), *HERE.glob("*.py")}):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest()


@cache
def cache_folder(source: Path) -> Path | None:
    """Where the code of the files in a folder is kept; None, with a warning, if nothing can be
    written."""
    name = f"{source.name}_{hashlib.sha256(str(source).encode()).hexdigest()[:40]}"
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        places = [Path(chosen) / name]
    else:
        user = str(AppDirs(appname="numba", appauthor=False).user_cache_dir)  # type: ignore[no-untyped-call]
        own = _own_temporary_folder()
        places = [source / "__pycache__", Path(user) / name, *([own / name] if own else [])]
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        except OSError:
            continue
        return place
    _warn(
        "Compiled code cannot be kept, as no folder for it can be written: every process compiles "
        "for itself, which takes a minute or more. Set NUMBA_CACHE_DIR to a folder of your own."
    )
    return None


def _own_temporary_folder() -> Path | None:
    """A folder that nobody else can write: what lies there is run."""
    folder = Path(tempfile.gettempdir()) / f"sfxproc-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if ours and not found.st_mode & 0o022 else None


@cache
def _warn(text: str) -> None:
    """Once a process."""
    warnings.warn(text, stacklevel=2)


class KeptCode:
    """The cache of one function, as numba's dispatchers ask for it."""

    def __init__(self, function: Function, folder: Path) -> None:
        code = function.__code__
        self.function, self.folder = function, folder
        module, name = Path(code.co_filename).stem, function.__qualname__
        self.name = f"{module}.{name.replace('<', '').replace('>', '')}-{code.co_firstlineno}"
        self.turns: dict[Path, BinaryIO] = {}
        self.source = (source_digest(Path(code.co_filename).resolve().parent), numba.__version__)

    @property
    def cache_path(self) -> str:
        """The folder."""
        return str(self.folder)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The compiled function for these arguments; None if it is not kept, or of another
        source."""
        target.refresh()
        key = self._key(signature, target.codegen())
        kept = self._read(key)
        if kept is None:
            self._await_turn(key)
            kept = self._read(key)  # another process may have compiled it meanwhile
            if kept is not None:
                self._end_turn(key)
        return None if kept is None else RESULT._rebuild(target, *kept)

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep a compiled function. A disk that is full is no reason to end."""
        key = self._key(signature, result.codegen)
        if not result.library.has_dynamic_globals:  # addresses of this process
            self._write(key, result._reduce())
        self._end_turn(key)

    def flush(self) -> None:
        """Forget all that is kept of the function."""
        for path in self.folder.glob(f"{self.name}-*.nbc"):
            path.unlink(missing_ok=True)

    def _read(self, key: Key) -> Any:
        try:
            with self._path(key).open("rb") as handle:
                if pickle.load(handle) != self.source or pickle.load(handle) != key:
                    return None
                return pickle.load(handle)
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    def _write(self, key: Key, code: Any) -> None:
        path = self._path(key)
        part = path.with_suffix(f".{uuid4().hex}.tmp")
        try:
            part.write_bytes(pickle.dumps(self.source) + _dumped(key) + _dumped(code))
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            _warn(f"Compiled code cannot be kept in '{self.folder}': {error.strerror}.")

    def _await_turn(self, key: Key) -> None:
        """Wait until no other process compiles the function, but not for ever: who fails to compile
        it does not say so before its end."""
        path = self._path(key).with_suffix(".lock")
        if path in self.turns:
            return
        waited, pause = 0.0, 0.01
        try:
            handle = path.open("ab")
            while waited < LONGEST_WAIT_s:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(pause)
                    waited, pause = waited + pause, min(1.5 * pause, 0.5)
                else:
                    self.turns[path] = handle
                    return
            handle.close()
        except OSError:  # no locks on this file system
            return

    def _end_turn(self, key: Key) -> None:
        path = self._path(key).with_suffix(".lock")
        if (handle := self.turns.pop(path, None)) is not None:
            path.unlink(missing_ok=True)
            handle.close()

    def _key(self, signature: Any, codegen: Any) -> Key:
        """What else the code depends on: arguments, processor, and what a function was made of
        that was made in another."""
        cells = self.function.__closure__ or ()
        closed = _dumped(tuple(cell.cell_contents for cell in cells))
        return signature, codegen.magic_tuple(), self.function.__code__.co_code, closed

    def _path(self, key: Key) -> Path:
        """The file of a key; rarely another key may have the same one."""
        digest = hashlib.sha256(repr((key, sys.version_info[:2])).encode()).hexdigest()[:16]
        return self.folder / f"{self.name}-{digest}.nbc"


def _dumped(value: Any) -> bytes:
    return bytes(dumps(value))  # type: ignore[no-untyped-call]
