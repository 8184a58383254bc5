from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sfxproc.data import Stills
from sfxproc.errors import InputError
from sfxproc.formats import hdf5
from sfxproc.formats.inputs import InputFile, list_inputs, read_input


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """run1 and run2 with pairs of the same name, loose files, and a folder without inputs."""
    names = ["run1/int.expt", "run1/int.refl", "run2/int.expt", "run2/int.refl", "run2/b.h5"]
    for name in [*names, "c.mtz", "a.h5", "deep/x/y/z.h5", "notes/readme.md", "a.truth.h5"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(files: list[InputFile], base: Path) -> list[str]:
    return [f.path.relative_to(base).as_posix() for f in files]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["c.mtz", "a.h5"], ["c.mtz", "a.h5"]),  # as given
        (["*.h5"], ["a.h5"]),  # not the truth
        (["*"], ["a.h5", "c.mtz"]),  # sorted
        (["run1/int.expt", "run1/int.refl"], ["run1/int.expt"]),
        (["run2/int.refl"], ["run2/int.expt"]),
        (["run2"], ["run2/b.h5", "run2/int.expt"]),
        (["run?"], ["run1/int.expt", "run2/b.h5", "run2/int.expt"]),
        (["run*/*.refl"], ["run1/int.expt", "run2/int.expt"]),
        (["**/*.h5"], ["a.h5", "deep/x/y/z.h5", "run2/b.h5"]),
        (["run2/b.h5", "run2", "./run2/../run2/b.h5"], ["run2/b.h5", "run2/int.expt"]),
        (["a.truth.h5"], ["a.truth.h5"]),  # named: the reader tells what it is
    ],
)
def test_what_paths_stand_for(tree: Path, paths: list[str], expected: list[str]) -> None:
    assert names(list_inputs(paths, [], tree), tree) == expected


def test_formats_and_absolute_paths(tree: Path) -> None:
    paths = [str(tree / "a.h5"), str(tree / "c.mtz"), str(tree / "run1" / "int.refl")]
    files = list_inputs(paths, [], Path("elsewhere"))
    assert [f.format.name for f in files] == ["native HDF5", "unmerged MTZ", "DIALS"]


def test_relative_to_the_current_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "run2")
    assert [f.path for f in list_inputs(["b.h5"])] == [tree / "run2" / "b.h5"]


def test_a_name_with_glob_characters_is_a_name(tree: Path) -> None:
    (tree / "odd[1].h5").write_bytes(b"")
    assert names(list_inputs(["odd[1].h5"], [], tree), tree) == ["odd[1].h5"]


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        (["b.h5"], ["run1/int.expt", "run2/int.expt"]),
        (["run2"], ["run1/int.expt"]),
        (["run2/*"], ["run1/int.expt"]),
        (["*/int.refl"], ["run2/b.h5"]),  # either of a pair excludes both
        (["./run1/int.expt"], ["run2/b.h5", "run2/int.expt"]),
        (["**/b.*"], ["run1/int.expt", "run2/int.expt"]),
        (["int"], ["run1/int.expt", "run2/b.h5", "run2/int.expt"]),
    ],
)
def test_exclude(tree: Path, exclude: list[str], expected: list[str]) -> None:
    assert names(list_inputs(["run*"], exclude, tree), tree) == expected
    absolute = [str(tree / e) for e in exclude if "/" in e]
    if absolute:
        assert names(list_inputs(["run*"], absolute, tree), tree) == expected


def test_exclude_does_not_look_above_the_base(tree: Path) -> None:
    assert list_inputs(["a.h5"], [tree.name], tree)


def test_labels_are_the_shortest_unique_ends(tree: Path) -> None:
    files = list_inputs(["run1", "run2", "deep/x/y/z.h5"], [], tree)
    assert [f.label for f in files] == ["run1/int.expt", "b.h5", "run2/int.expt", "z.h5"]


def test_list_file(tree: Path) -> None:
    (tree / "run2" / "all.lst").write_text("# comment\n\nb.h5  # the best\n../run1/*.expt\n")
    files = list_inputs(["run2/all.lst", "a.h5"], [], tree)
    assert names(files, tree) == ["run2/b.h5", "run1/int.expt", "a.h5"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "input.paths is empty"),
        (["aa.h5"], r"input.paths: 'aa.h5': there is no 'aa.h5' in .* Did you mean 'a.h5'"),
        (["rum1/int.expt"], r"there is no 'rum1' in .* Did you mean 'run1' or 'run2'"),
        (["zzzzzz"], "Nothing there has a similar name"),
        (["run1/*.exp"], r"'run1/\*.exp' matches no file.*holds for example 'int.expt'"),
        (["rum1/*.expt"], r"there is no 'rum1' in .* Did you mean 'run1'"),
        (["notes/*"], r"matches '.*readme.md' and 0 more, but no file with a suffix .*\.expt"),
        (["notes"], r"no file in this folder has a suffix that sfxproc reads \(\.expt"),
        (["notes/readme.md"], r"has the suffix '\.md'\. Inputs need a suffix .* \.lst or \.txt"),
    ],
)
def test_mistakes(tree: Path, paths: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_inputs(paths, [], tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", r"all\.txt' names no file"),
        ("a.h5\nb.h5\n", r"all\.txt', line 2: 'b\.h5': there is no 'b\.h5'"),
        ("all.txt\n", r"line 1: 'all\.txt' has the suffix '\.txt'\. Inputs need .*\)\.$"),
        ("# d\n5.43 0.01\n", r"line 2: '5\.43 0\.01' is a number, and no file .*peaks\.path"),
        (b"\xff\xfe\x00", "cannot be read as a list of files"),
    ],
)
def test_bad_lists(tree: Path, text: str | bytes, message: str) -> None:
    (tree / "all.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        list_inputs(["all.txt"], [], tree)


def test_numbers_may_be_names(tree: Path) -> None:
    (tree / "0012").mkdir()
    (tree / "0012" / "x.h5").touch()
    (tree / "runs.txt").write_text("0012\n")
    assert [f.path for f in list_inputs(["runs.txt"], [], tree)] == [tree / "0012" / "x.h5"]


def test_everything_excluded(tree: Path) -> None:
    with pytest.raises(InputError, match=r"input\.exclude leaves out all 2 files"):
        list_inputs(["a.h5", "c.mtz"], ["*"], tree)


def test_read_input_passes_label_and_columns(small_stills: Stills, tmp_path: Path) -> None:
    hdf5.write(tmp_path / "a.h5", replace(small_stills, n_images=9))
    (file,) = list_inputs(["a.h5"], [], tmp_path)
    stills = read_input(file, ["panel"], strict=False)
    assert stills.n_images == 9
    assert stills.observations.panel is not None
    assert stills.observations.x_px is None
