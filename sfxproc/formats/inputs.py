"""Which files a job reads: files, globs, folders and list files become labelled inputs."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfxproc.data import Stills
from sfxproc.errors import InputError
from sfxproc.formats import FORMATS
from sfxproc.formats.base import Format, Request
from sfxproc.formats.soundness import sound

LISTS = (".lst", ".txt")
PAIR = (".refl", ".expt")  # two files of one input, known by the second
BY_SUFFIX = {suffix: fmt for fmt in FORMATS for suffix in fmt.suffixes}


@dataclass(frozen=True)
class InputFile:
    """One input: its path, its format, and the label that names it in crystal identities."""

    path: Path
    format: Format
    label: str

    @property
    def members(self) -> tuple[Path, ...]:
        """The files that belong to this input: one, or both of a pair."""
        if _suffix(self.path) != PAIR[1]:
            return (self.path,)
        return (self.path, self.path.with_suffix(PAIR[0]))


def list_inputs(
    paths: Sequence[str], exclude: Sequence[str] = (), base: Path = Path()
) -> list[InputFile]:
    """The inputs that the paths name, in the order given; sorted within a glob or folder.

    paths : files, globs (`**` too), folders (their readable files, not those of folders within)
        or list files (.lst, .txt: one path or glob a line, relative to the list, # comments).
    exclude : globs or names of files or folders.
    base : what relative paths start from, by default the current folder.
    A file given twice counts once, as does a pair of .expt and .refl. Raises InputError, with the
    nearest names, for what does not exist, matches nothing or has an unknown suffix.
    """
    if not paths:
        raise InputError(
            "input.paths is empty. Name at least one file, glob, folder or list file, for example "
            'paths = ["integrated/*.expt"].'
        )
    base = base.absolute()
    found: dict[Path, Path] = {}
    for text in paths:
        for path in _expand(text, base, f"input.paths: '{text}'"):
            found.setdefault(path.resolve(), path)
    kept = [path for path in found.values() if not _excluded(path, exclude, base)]
    if not kept:
        raise InputError(
            f"input.exclude leaves out all {len(found)} files that input.paths names. Remove a "
            "pattern from input.exclude."
        )
    labels = _labels(kept)
    return [InputFile(p, BY_SUFFIX[_suffix(p)], labels[p]) for p in kept]


def read_input(file: InputFile, columns: Collection[str], strict: bool) -> Stills:
    """Read one input with the optional columns wanted, without the rows that no measurement can
    have given. Raises InputError."""
    request = Request(file.label, frozenset(columns), strict)
    return sound(file.format.read(file.path, request), file.path, strict)


def missing_file(path: Path, place: str) -> InputError:
    """The error for a path that does not exist, with the nearest names there are."""
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    if path.is_file():
        return InputError(f"{place}: '{path}' is a file, not a folder. Correct the path.")
    try:
        near = difflib.get_close_matches(path.name, os.listdir(folder), n=3, cutoff=0.5)
    except OSError:
        near = []
    if near:
        hint = "Did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    else:
        hint = "Nothing there has a similar name; check the path."
    return InputError(f"{place}: there is no '{path.name}' in '{folder}'. {hint}")


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _main(path: Path) -> Path:
    """The file that stands for the input: the .expt of a .refl, otherwise the file itself."""
    other = path.with_suffix(PAIR[1])
    return other if _suffix(path) == PAIR[0] and other.is_file() else path


def _expand(text: str, base: Path, place: str, lists: bool = True) -> Iterator[Path]:
    """The files one entry stands for; `place` names the entry in messages."""
    path = Path(os.path.normpath(base / Path(text).expanduser()))
    if path.is_dir():
        files = _readable(path.iterdir())
        if not files:
            raise InputError(f"{place}: no file in this folder has a {_known_suffixes()}.")
        yield from files
    elif path.is_file():
        if lists and _suffix(path) in LISTS:
            yield from _read_list(path)
        elif _suffix(path) in BY_SUFFIX:
            yield _main(path)
        else:
            raise InputError(
                f"{place} has the suffix '{path.suffix}'. Inputs need a {_known_suffixes()}"
                + (f"; lists of files need {' or '.join(LISTS)}." if lists else ".")
            )
    elif glob.has_magic(text):
        yield from _match(path, place)
    elif "," in text:
        raise InputError(
            f"{place}: there is no such file. If several are meant, give a list, for example --set "
            """'input.paths=["a.stream", "b.stream"]'."""
        )
    else:
        raise missing_file(path, place)


def _match(pattern: Path, place: str) -> list[Path]:
    matches = [Path(p) for p in glob.glob(str(pattern), recursive=True)]
    files = _readable(matches)
    if not files:  # a glob of folders stands for the files in them
        files = _readable(p for m in matches if m.is_dir() for p in m.iterdir())
    if files:
        return files
    if matches:
        raise InputError(
            f"{place} matches '{sorted(matches)[0]}' and {len(matches) - 1} more, but no file with "
            f"a {_known_suffixes()}."
        )
    folder = pattern.parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    if not folder.is_dir():
        raise missing_file(folder, place)
    names = os.listdir(folder)
    near = difflib.get_close_matches(pattern.name, names, n=3, cutoff=0.3) or sorted(names)[:3]
    holds = "holds for example " + ", ".join(f"'{n}'" for n in near) if near else "is empty"
    raise InputError(f"{place} matches no file. '{folder}' {holds}; correct the pattern.")


def _readable(paths: Iterator[Path] | list[Path]) -> list[Path]:
    """The inputs among them, sorted; the truth that lies beside simulated data is none."""
    files = (p for p in paths if _suffix(p) in BY_SUFFIX and ".truth" not in p.suffixes)
    return sorted({_main(p) for p in files if p.is_file()})


def _read_list(path: Path) -> Iterator[Path]:
    try:
        # what is not UTF-8 keeps its bytes, as names of files do
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
        if any("\0" in line for line in lines):
            raise ValueError("it is binary")
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{path}' cannot be read as a list of files ({error}). A list is plain text with one "
            "path or glob a line."
        ) from error
    entries = [(i, line.split(" #")[0].strip()) for i, line in enumerate(lines, 1)]
    entries = [(i, line) for i, line in entries if line and not line.startswith("#")]
    if not entries:
        raise InputError(f"The list '{path}' names no file. Write one path or glob a line.")
    for number, line in entries:
        place = f"'{path}', line {number}: '{line}'"
        if _is_number(line.split()[0]) and not (path.parent / line).exists():
            raise InputError(
                f"{place} is a number, and no file has that name. A '{path.suffix}' file is read "
                "as a list of files, one path or glob a line; lines of a powder pattern are for "
                "peaks.path of a powder job."
            )
        yield from _expand(line, path.parent, place, lists=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _known_suffixes() -> str:
    return "suffix that sfxproc reads (" + ", ".join(BY_SUFFIX) + ")"


def _excluded(path: Path, patterns: Sequence[str], base: Path) -> bool:
    # either file of a pair excludes both
    names = [path, path.with_suffix(PAIR[0])] if _suffix(path) == PAIR[1] else [path]
    below = [p for p in path.parents if base in p.parents]
    for pattern in (os.path.normpath(Path(text).expanduser()) for text in patterns):
        whole = str(base / pattern)
        if any(p.match(pattern) or fnmatch.fnmatch(str(p), whole) for p in [*names, *below]):
            return True
    return False


def _labels(paths: Sequence[Path]) -> dict[Path, str]:
    """The shortest end of each path that no other path has."""
    labels: dict[Path, str] = {}
    waiting, n_parts = list(paths), 1
    while waiting:
        ends = {p: "/".join(p.parts[-n_parts:]) for p in waiting}
        count = Counter(ends.values())
        labels |= {p: end for p, end in ends.items() if count[end] == 1}
        waiting = [p for p in waiting if p not in labels]
        n_parts += 1
    return labels
