"""What the documentation shows is true: job files, commands, paths, tables and examples."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.main import get_command

import sfxproc
from sfxproc.cli import app
from sfxproc.config import load
from sfxproc.jobs import JOBS
from sfxproc.parallel.comm import SerialComm
from sfxproc.report.log import open_log
from sfxproc.results import outputs, powder_files, spot_powder
from sfxproc.runs.names import ALWAYS
from sfxproc.settings.scale import ScaleConfig
from sfxproc.settings.sections import Symmetry
from sfxproc.simulate.settings import StillsSettings

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
JOB_FILES = sorted((ROOT / "jobs").glob("*.toml"))

Tree = dict[str, Any]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.M | re.S)


def leaves(tree: Tree, path: str = "") -> Tree:
    """Values by dotted path."""
    out: Tree = {}
    for key, value in tree.items():
        out |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return out


# ---- job files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def defaults() -> Tree:
    """Every setting of a scaling job with its default, those of the simulation too."""
    symmetry = Symmetry(space_group="P 43 21 2")  # has no default
    config = ScaleConfig(job="scale", symmetry=symmetry, simulate=StillsSettings())
    return leaves(json.loads(msgspec.json.encode(config)))


def test_scale_toml_holds_every_setting_with_its_default(defaults: Tree) -> None:
    text = read(ROOT / "jobs" / "scale.toml")
    shown = leaves(tomllib.loads(re.sub(r"^#(?=[a-z\[])", "", text, flags=re.M)))

    assert sorted(shown) == sorted(defaults)
    differ = {k: (v, defaults[k]) for k, v in shown.items() if defaults[k] not in (v, None)}
    assert not differ
    without = {k for k, v in defaults.items() if v is None or k.startswith("simulate.")}
    assert without == set(shown) - set(leaves(tomllib.loads(text)))


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda p: p.name)
def test_every_setting_of_a_job_file_is_explained(path: Path) -> None:
    lines = read(path).splitlines()
    settings = [line for line in lines if re.match(r"#?[a-z]\w* = ", line, re.I)]
    self_evident = ("job", "folder", "space_group", "n_crystals", "seed", "d_min_A", "d_max_A",
                    "wavelength_A", "detector_distance_mm", "pixel_mm", "gain", "overwrite",
                    "outlier_fraction")  # fmt: skip
    silent = [s for s in settings if "  # " not in s]
    assert [s for s in silent if s.lstrip("#").split(" = ")[0] not in self_evident] == []


def test_demo_states_the_defaults_of_the_simulation(defaults: Tree) -> None:
    shown = leaves(tomllib.loads(read(ROOT / "jobs" / "demo.toml"))["simulate"], "simulate.")
    assert {k: defaults[k] for k in shown} == shown
    config = load(ROOT / "jobs" / "demo.toml", [], ScaleConfig)
    assert config.simulate is not None
    assert config.simulate.n_crystals == 500
    assert config.output.folder == "demo"
    assert config.output.overwrite  # the command can be given twice


# ---- a small job -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a small job with Friedel mates apart."""
    folder = tmp_path_factory.mktemp("docs") / "out"
    settings = [f"output.folder={folder}", "simulate.n_crystals=40", "simulate.d_min_A=4",
                "symmetry.anomalous=true", "simulate.anomalous_fraction=0.1"]  # fmt: skip
    config = load(ROOT / "jobs" / "demo.toml", settings, ScaleConfig)
    JOBS["scale"].run(config, SerialComm(), open_log())
    return folder


def test_readme_names_every_result(results: Path) -> None:
    table = read(README).split("\n## Results")[1].split("\n## ")[0]
    named = [name for row in re.findall(r"^\|(.*?)\|", table, re.M) for name in row.split()]
    written = {p.name for p in results.iterdir() if not p.name.startswith("simulated")}
    assert {name.strip("`") for name in named if "`" in name} == written
    text = read(README).split("\n## Results")[1].split("\n## ")[0]
    shown = set(re.findall(r"`([\w./-]+)`", text))
    listed = {name.rstrip("/") for output in outputs.OUTPUTS for name in output.names}
    assert listed | set(ALWAYS) == {name for name in shown if name in listed or name in written}


@pytest.mark.parametrize(
    ("page", "outputs"), [("powder", powder_files.OUTPUTS), ("spot_powder", spot_powder.OUTPUTS)]
)
def test_pages_name_every_result_of_powder_jobs(page: str, outputs: Any) -> None:
    text = read(ROOT / "docs" / f"{page}.md")
    for name in (name for output in outputs for name in output.names):
        assert f"`{name}" in text


def test_conventions_name_the_keys_of_statistics(results: Path) -> None:
    told = json.loads(read(results / "statistics.json"))
    page = read(ROOT / "docs" / "conventions.md")
    cells = re.findall(r"^\|(.*?)\|", page.split("\n## Statistics")[1], re.M)
    defined = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    counts = {"n_unique", "n_possible", "n_observations", "n_bijvoet_pairs", "d_max_A", "d_min_A"}
    assert set(told["overall"]) - counts == defined - {"d_cc_half_A"}
    for path in re.findall(r"`(\w+(?:\.\w+)+)` in `statistics.json`", page):
        assert path in leaves(told)


# ---- commands and paths ----------------------------------------------------------------------


def shell_commands() -> list[str]:
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&")]


def require_sfxproc(arguments: list[str]) -> None:
    """The command line takes these arguments, and a job file its settings."""
    group: Any = get_command(app)
    name, *rest = arguments
    context = group.commands[name].make_context(name, list(rest))
    given = context.params.get("overrides") or []
    job_file = context.params.get("job_file")
    if job_file is not None:
        path = ROOT / job_file
        load(path if path.is_file() else ROOT / "jobs" / "scale.toml", given, ScaleConfig)


@pytest.mark.parametrize("command", shell_commands())
def test_commands_of_readme_exist(command: str) -> None:
    words = shlex.split(command)
    for word in words:
        if word.startswith(("jobs/", "slurm/", "docs/", "tests/")):
            assert (ROOT / word).exists()
    if ".venv/bin/sfxproc" in words:
        require_sfxproc(words[words.index(".venv/bin/sfxproc") + 1 :])
    else:
        assert words[0] in ("python3", "cp", "sbatch", ".venv/bin/pip", ".venv/bin/pytest")
    if words[:2] == [".venv/bin/pip", "install"] and "[" in words[2]:
        project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
        extras = words[2].partition("[")[2].rstrip("]").split(",")
        assert set(extras) <= set(project["optional-dependencies"])


def test_continuous_integration_runs_the_two_commands_of_readme() -> None:
    script = read(ROOT / ".ci" / "run").splitlines()
    for command in [block.strip() for block in blocks(README, "sh")][:2]:
        assert command in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = read(page)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (page.parent / target).exists(), target
    made_up = {"name.py", "toy.py", "anisotropy.py", "name.toml"}
    for path in re.findall(r"`([\w./-]+(?:\.py|\.toml|\.sbatch|/))`", text):
        if "/" in path and Path(path).name not in made_up:
            assert (ROOT / path).exists() or (ROOT / "sfxproc" / path).exists(), path
    for name, path in re.findall(r"`(\w+)` (?:of|in) `([\w/]+\.py)`", text):
        source = ROOT / path if path.startswith(("sfxproc", "tests")) else ROOT / "sfxproc" / path
        assert re.search(rf"\b{name}\b", read(source)), f"{name} in {path}"


def test_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    page = read(ROOT / "docs" / "architecture.md").split("## Layers")[1].split("\n## ")[0]
    shown = re.findall(r"^    (\w.*?)(?:  .*)?$", page, re.M)
    assert shown == [layer.replace("sfxproc.", "") for layer in layers]


# ---- SLURM -----------------------------------------------------------------------------------

STUB = """#!/bin/bash
echo "$@" >> arguments
[ -n "${DONE:-}" ] && mkdir -p sfxproc-7 && touch sfxproc-7/DONE
exit 0
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with stand-ins for srun and sfxproc."""
    for name, text in ((".venv/bin/sfxproc", STUB), ("bin/srun", '#!/bin/bash\nexec "${@:3}"\n')):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def submit(site: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{site / 'bin'}{os.pathsep}{os.environ['PATH']}"
    told = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3", **environment}
    script = ["bash", str(ROOT / "slurm" / "job.sbatch"), "my.toml"]
    return subprocess.run(script, cwd=site, env=told, text=True, capture_output=True, check=False)


def test_batch_script_gives_sfxproc_arguments_that_it_takes(site: Path) -> None:
    done = submit(site, DONE="1")
    assert (done.returncode, done.stdout) == (0, "Results are complete in 'sfxproc-7'.\n")
    arguments = read(site / "arguments").split()
    require_sfxproc(arguments)
    assert {"parallel.threads=3", "output.folder=sfxproc-7"} <= set(arguments)


def test_batch_script_trusts_nothing_but_done(site: Path) -> None:
    done = submit(site)
    assert done.returncode == 1
    assert "did not finish" in done.stderr


# ---- examples --------------------------------------------------------------------------------

ADDING = ROOT / "docs" / "adding.md"


def example(start: str) -> str:
    """The block of Python of docs/adding.md that has a line beginning so."""
    (found,) = [block for block in blocks(ADDING, "python") if f"\n{start}" in f"\n{block}"]
    return found


def test_a_format_is_one_file_and_one_line(tmp_path: Path) -> None:
    """The example of docs/adding.md, in a copy of the package."""
    reader, line = example('"""Toy stills'), re.findall(r"`(toy\.FORMAT,)`", read(ADDING))[0]
    source = Path(sfxproc.__file__).parent
    copy = tmp_path / "sfxproc"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "formats" / "toy.py").write_text(reader)
    table = copy / "formats" / "__init__.py"
    text = read(table).replace("import crystfel, ", "import crystfel, toy, ")
    table.write_text(text.replace("= (\n", f"= (\n    {line}\n"))
    (tmp_path / "run1.toy").write_text(
        "79.1 79.1 38.2 90 90 90 1.3\n1 1 2 3 100 10\n2 4 5 6 80 9\n1 -1 3 3 50 8\n"
    )
    (tmp_path / "bad.toy").write_text("79.1 79.1\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sfxproc", *arguments]
        return subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)

    shown = run("show", "run1.toy")
    assert shown.returncode == 0, shown.stderr
    rows = dict(re.findall(r"^\s*(\S.*?)  +(\S.*?)\s*$", shown.stdout, re.M))
    assert (rows["format"], rows["crystals"], rows["reflections"]) == ("toy", "2", "3")
    refused = run("show", "bad.toy")
    assert refused.returncode == 2
    assert "is not a toy file" in " ".join(refused.stderr.split())


def test_a_parameter_is_a_kernel_a_line_and_a_setting(tmp_path: Path) -> None:
    """The example of docs/adding.md, in a copy of the package, on stills of known shapes."""
    copy = tmp_path / "sfxproc"
    shutil.copytree(Path(sfxproc.__file__).parent, copy)  # with compiled kernels, for speed
    (copy / "kernels" / "anisotropy.py").write_text(example('"""Sizes of reciprocal'))
    table = copy / "models" / "parameters.py"
    setting = re.findall(r"`(anisotropic: bool = False)`", read(ADDING))[0]
    head, lines = read(table).split("\nTABLE = (\n")
    head = head.replace("\nfrom sfxproc.kernels", "\nfrom sfxproc.kernels import anisotropy\n"
                        "from sfxproc.kernels", 1)  # fmt: skip
    settings = copy / "models" / "settings.py"
    settings.write_text(
        read(settings).replace("    orientation: bool", f"    {setting}\n    orientation: bool")
    )
    line = f"{example('Parameter(').rstrip()},\n"
    lines = lines.replace("\n)\n", f"\n{textwrap.indent(line, '    ')})\n", 1)
    table.write_text(f"{head}\nTABLE = (\n{lines}")

    told = subprocess.run(
        [sys.executable, "-m", "tests.anisotropic", str(tmp_path)], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["package"] == str(copy)
    assert found["gradient"] == pytest.approx([1.0] * 3, abs=1e-6)  # over differences
    assert found["chi2_per_dof"] == pytest.approx(1.0, abs=0.03)
    assert found["isotropic"] > 3.0  # χ²/dof without
    for kind in ("global", "blocks", "cycles"):
        pulls = np.array(found[kind])  # (refined − true)/σ, of both
        assert pulls.shape == (100, 2)
        assert np.sqrt(np.mean(pulls**2, axis=0)) == pytest.approx(1.0, abs=0.2)
        # what is off for all crystals alike, intensities can make up for
        assert np.abs(pulls.mean(axis=0)).max() < 0.6
    assert found["sigma"] < 0.03  # of shapes of 0.3 and −0.4
    assert found["again"] < 1e-12  # off what it began with
    assert found["report"]


def test_the_smallest_model_is_fitted() -> None:
    """The example of docs/adding.md against the minimum-norm solution of plain least squares."""
    names: Tree = {}
    exec(compile(example("class OffsetModel"), "adding.md", "exec"), names)
    rng = np.random.default_rng(3)
    n_blocks, n_shared, n_rows = 40, 15, 10
    shared = np.array([np.sort(rng.permutation(n_shared)[:n_rows]) for _ in range(n_blocks)])
    offsets, values = rng.normal(size=n_blocks), rng.normal(size=n_shared)
    observed = (offsets[:, None] + values[shared] + 0.1 * rng.normal(size=shared.shape)).ravel()

    start = np.arange(n_blocks + 1, dtype=np.int64) * n_rows
    found, _ = names["fit"](start, shared.ravel().astype(np.int32), n_shared, observed)

    J = np.zeros((observed.size, n_blocks + n_shared))
    J[np.arange(observed.size), np.repeat(np.arange(n_blocks), n_rows)] = 1.0
    J[np.arange(observed.size), n_blocks + shared.ravel()] = 1.0
    expected = np.linalg.lstsq(J, observed, rcond=None)[0][:n_blocks]
    assert abs(found.mean()) < 1e-12
    np.testing.assert_allclose(found, expected - expected.mean(), atol=2e-3)


def test_a_model_with_common_parameters_is_fitted() -> None:
    """The example of docs/adding.md against least squares of all parameters at once."""
    page = ROOT / "docs" / "adding.md"
    names: Tree = {}
    exec(compile(example("class TileModel"), "adding.md", "exec"), names)
    rng = np.random.default_rng(4)
    n_blocks, n_tiles, n_rows = 40, 8, 12
    start = np.arange(n_blocks + 1, dtype=np.int64) * n_rows
    block = np.repeat(np.arange(n_blocks), n_rows)
    tile = rng.integers(0, n_tiles, len(block)).astype(np.int32)
    t = rng.uniform(-1.0, 1.0, len(block))
    truth = rng.normal(size=n_blocks), rng.normal(size=n_tiles)
    observed = truth[0][block] + truth[1][tile] + 0.7 * t + rng.normal(size=len(block))

    offsets, common, sigma, gauge = names["fit_tiles"](start, tile, n_tiles, t, observed)

    J = np.zeros((len(block), n_blocks + n_tiles + 1))
    rows = np.arange(len(block))
    J[rows, block] = J[rows, n_blocks + tile] = 1.0
    J[:, -1] = t
    free = np.linalg.lstsq(J, observed, rcond=None)[0]
    shift = (common - free[n_blocks:])[:n_tiles]
    np.testing.assert_allclose(shift, shift[0], atol=1e-8)
    np.testing.assert_allclose(offsets - free[:n_blocks], -shift[0], atol=1e-8)
    assert common[-1] == pytest.approx(free[-1], abs=1e-8)
    held = np.zeros(J.shape[1])
    held[n_blocks:-1] = np.bincount(tile, minlength=n_tiles)  # as the solver weights them
    inverse = np.linalg.inv(J.T @ J + np.outer(held, held))
    move = np.concatenate([-np.ones(n_blocks), np.ones(n_tiles), [0.0]])
    inverse -= np.outer(move, move) / (held @ move) ** 2
    np.testing.assert_allclose(sigma, np.sqrt(np.diag(inverse))[n_blocks:], rtol=1e-6)
    shown = " ".join(read(page).split())
    assert len(gauge) == 1
    assert gauge[0] in shown
