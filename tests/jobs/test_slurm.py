"""The batch scripts, and `sfxproc slurm` that fills them in. srun is a stand-in here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfxproc.commands.slurm import (
    TEMPLATES,
    SlurmOptions,
    batch_script,
    bytes_of,
    seconds_of,
    template_text,
    warnings_of,
)
from sfxproc.config import load
from sfxproc.errors import ConfigError
from sfxproc.refine.estimate import estimate
from sfxproc.settings.scale import ScaleConfig

ROOT = Path(__file__).resolve().parents[2]
JOB = 'job = "scale"\n[symmetry]\nspace_group = "P 1"\n[simulate]\nn_crystals = 20000\n'
HOUR = 3600

# Stand-ins: the program keeps its arguments and ends as told; srun drops its own two arguments.
PROGRAM = """#!/bin/bash
printf '%s\\n' "$@" > arguments
for word in "$@"; do
    case $word in output.folder=*) out=${word#*=} ;; esac
done
[ -n "${KEPT:-}" ] && mkdir -p "$out/checkpoint" && touch "$out/checkpoint/$KEPT"
[ -n "${DONE:-}" ] && mkdir -p "$out" && touch "$out/DONE"
exit "${STATUS:-0}"
"""
SRUN = '#!/bin/bash\nexec "${@:3}"\n'
SCONTROL = '#!/bin/bash\necho "$@" > scontrol\n'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder to submit from."""
    stand_ins = {".venv/bin/sfxproc": PROGRAM, "bin/srun": SRUN, "bin/scontrol": SCONTROL}
    for name, text in stand_ins.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "my.toml").write_text(JOB)
    (tmp_path / "sets.lst").write_text("a.h5\n\nb 1/*.stream\n[\"c.h5\", 'd.h5']\n")
    return tmp_path


@pytest.fixture
def submit(site: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script as SLURM would, with the arguments after its name and variables."""

    def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        told = {
            "PATH": f"{site / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_ARRAY_JOB_ID": "7",
            "SLURM_CPUS_PER_TASK": "3",
            **variables,
        }
        path = site / "spooled"
        path.write_text(script)
        command = ["bash", str(path), *arguments]
        return subprocess.run(command, cwd=site, env=told, text=True, capture_output=True)

    return run


def arguments(site: Path) -> list[str]:
    return (site / "arguments").read_text().splitlines()


def config_of(text: str = JOB, *overrides: str) -> ScaleConfig:
    return load(text, overrides, ScaleConfig)


def shipped(name: str) -> str:
    return (ROOT / "slurm" / f"{name}.sbatch").read_text()


# ---- templates as they stand -----------------------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_installed_is_what_is_shipped(name: str) -> None:
    assert template_text(name) == shipped(name)


def test_templates_agree_about_the_site() -> None:
    def facts(name: str) -> list[str]:
        site = shipped(name).partition("# ---- the site")[2].partition("# ---- the job")[0]
        return [line for line in site.splitlines() if re.match(r"##?SBATCH|\w+=|# module", line)]

    own = ("--array", "--output", "--signal", "--requeue", "--open-mode")
    common = [[line for line in facts(n) if not any(o in line for o in own)] for n in TEMPLATES]
    assert common[0] == common[1] == common[2]
    assert len(common[0]) == 11


@pytest.mark.parametrize("name", ["job", "requeue"])
def test_a_shipped_script_passes_on_job_and_settings(name: str, site: Path, submit: Any) -> None:
    done = submit(shipped(name), "my.toml", "--set", "symmetry.space_group=P 2", DONE="1")
    assert (done.returncode, done.stdout) == (0, "Results are complete in 'sfxproc-7'.\n")
    assert arguments(site) == [
        "run",
        "my.toml",
        "--resume",
        "--set",
        "symmetry.space_group=P 2",
        "--set",
        "output.folder=sfxproc-7",
        "--set",
        "parallel.threads=3",
    ]


@pytest.mark.parametrize(
    ("task", "paths"), [("1", "a.h5"), ("2", "b 1/*.stream"), ("3", "[\"c.h5\", 'd.h5']")]
)
def test_a_part_of_an_array_takes_its_line(task: str, paths: str, site: Path, submit: Any) -> None:
    script = shipped("array")
    done = submit(script, "my.toml", "sets.lst", SLURM_ARRAY_TASK_ID=task, DONE="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Results of '{paths}' are complete in 'sfxproc-7-{task}'.\n"
    assert f"input.paths={paths}" in arguments(site)
    assert f"output.folder=sfxproc-7-{task}" in arguments(site)


def test_an_array_longer_than_its_list(site: Path, submit: Any) -> None:
    done = submit(shipped("array"), "my.toml", "sets.lst", SLURM_ARRAY_TASK_ID="4")
    assert done.returncode != 0
    assert "sets.lst has no line 4" in done.stderr
    assert not (site / "arguments").exists()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_script_without_its_arguments(name: str, site: Path, submit: Any) -> None:
    done = submit(shipped(name), SLURM_ARRAY_TASK_ID="1")
    assert done.returncode != 0
    assert "give the job file" in done.stderr
    assert f"slurm/{name}.sbatch my.toml" in done.stderr
    assert not (site / "arguments").exists()


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("status", ["0", "1"])
def test_only_done_counts(name: str, status: str, submit: Any) -> None:
    """srun may return 0 after a node failed, and not 0 when all is written."""
    told = {"SLURM_ARRAY_TASK_ID": "1", "STATUS": status, "SLURM_RESTART_COUNT": "1000"}
    done = submit(shipped(name), "my.toml", "sets.lst", **told)
    assert done.returncode == 1
    assert f"did not finish (srun returned {status})" in done.stderr
    assert submit(shipped(name), "my.toml", "sets.lst", DONE="1", **told).returncode == 0


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_refusal_beside_results_is_told(name: str, submit: Any) -> None:
    """Those of other settings or inputs."""
    told = {"SLURM_ARRAY_TASK_ID": "1", "STATUS": "2", "DONE": "1"}
    done = submit(shipped(name), "my.toml", "sets.lst", **told)
    assert done.returncode == 2
    assert "refused this job" in done.stderr
    assert "complete" not in done.stdout


@pytest.mark.parametrize(
    ("status", "kept", "restarts", "again"),
    [
        ("75", None, None, True),  # told to stop
        ("75", None, "49", True),
        ("75", None, "50", False),
        ("137", "iteration-2", "3", True),  # ranks lost, or a mistake, but it had come further
        ("0", "iteration-2", None, True),
        ("137", None, None, False),  # as far as at the start
        ("137", "progress.json", None, False),
        ("2", None, None, False),
        ("0", None, None, False),
    ],
)
def test_what_makes_a_job_queue_again(
    status: str, kept: str | None, restarts: str | None, again: bool, site: Path, submit: Any
) -> None:
    first = site / "sfxproc-7" / "checkpoint" / "iteration-1"
    first.parent.mkdir(parents=True)
    first.touch()
    os.utime(first, (1, 1))
    told = {"STATUS": status}
    told |= {} if kept is None else {"KEPT": kept}
    told |= {} if restarts is None else {"SLURM_RESTART_COUNT": restarts}
    done = submit(shipped("requeue"), "my.toml", **told)
    assert (site / "scontrol").exists() == again
    if again:
        assert (site / "scontrol").read_text() == "requeue 7\n"
        assert "goes on when the queue allows" in done.stdout
    else:
        assert done.returncode == 1
        assert ("50 restarts were not enough" in done.stderr) == (restarts == "50")


def test_a_state_kept_anew_is_headway(site: Path, submit: Any) -> None:
    """Of the same name and size, but later."""
    state = site / "sfxproc-7" / "checkpoint" / "state"
    state.parent.mkdir(parents=True)
    state.touch()
    os.utime(state, (1, 1))
    submit(shipped("requeue"), "my.toml", STATUS="137", KEPT="state")
    assert (site / "scontrol").exists()


# ---- filled in -------------------------------------------------------------------------------

OPTIONS = SlurmOptions(
    nodes=2,
    ntasks_per_node=4,
    cpus_per_task=1,
    mem_per_cpu="4G",
    time="1-12",
    account="chem",
    partition="long",
)
SHOWN = {
    "nodes": 2,
    "ntasks-per-node": 4,
    "cpus-per-task": 1,
    "mem-per-cpu": "4G",
    "time": "1-12",
    "account": "chem",
    "partition": "long",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_filled_script_differs_from_its_template_where_it_must(name: str, site: Path) -> None:
    lists = site / "sets.lst" if name == "array" else None
    overrides = ["symmetry.space_group=P 21", "output.folder=my out"]
    config = config_of(JOB, *overrides)
    text, warnings = batch_script(name, Path("my.toml"), config, overrides, OPTIONS, lists)
    assert warnings == []
    below = "# ---- the site"
    assert text.startswith("#!/bin/bash\n# my.toml under SLURM, made from ")
    ours = text.partition(below)[2].splitlines()
    theirs = shipped(name).partition(below)[2].splitlines()
    changed = [our for our, their in zip(ours, theirs, strict=True) if our != their]
    expected = [f"#SBATCH --{k}={v}" for k, v in SHOWN.items()] + [
        f"sfxproc={shlex.quote(str(Path(sys.executable).with_name('sfxproc')))}",
        "job=my.toml",
        "settings=(--set 'symmetry.space_group=P 21' --set 'output.folder=my out')",
        "out='my out'",
    ]
    if lists is not None:
        expected += ["#SBATCH --array=1-3", f"list={lists}"]
    assert sorted(changed) == sorted(expected)


def test_without_options_the_template_stands(site: Path) -> None:
    text, _ = batch_script("job", Path("my.toml"), config_of(), [], SlurmOptions())
    shown = re.findall(r"^##?SBATCH.*$", text, re.M)
    assert shown == re.findall(r"^##?SBATCH.*$", shipped("job"), re.M)


def test_a_filled_script_runs(site: Path, submit: Any) -> None:
    overrides = ["input.paths=it's $HOME/*.h5", "output.folder=my out"]
    config = config_of(JOB, *overrides)
    text, _ = batch_script("job", Path("my job.toml"), config, overrides, SlurmOptions())
    program = shlex.quote(str(Path(sys.executable).with_name("sfxproc")))
    done = submit(text.replace(f"sfxproc={program}", "sfxproc=.venv/bin/sfxproc"), DONE="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Results are complete in 'my out'.\n"
    assert arguments(site)[:5] == ["run", "my job.toml", "--resume", "--set", overrides[0]]
    assert "output.folder=my out" in arguments(site)


# ---- the command -----------------------------------------------------------------------------


def test_the_command_prints_the_script_alone(site: Path, command: Any) -> None:
    done = command("slurm", "my.toml", "--nodes", 2, "--time", "2:00:00", "--account=chem")
    assert (done.status, done.err) == (0, "")
    assert done.lines[0] == "#!/bin/bash"
    assert {"#SBATCH --nodes=2", "#SBATCH --time=2:00:00"} <= set(done.lines)
    assert "#SBATCH --account=chem" in done.lines
    assert "##SBATCH --partition=PARTITION" in done.lines


def test_warnings_go_to_standard_error(site: Path, command: Any) -> None:
    done = command("slurm", "my.toml", "--nodes=50", "--ntasks-per-node=100")
    assert done.err.startswith(
        "sfxproc: 5000 ranks (threads of each: 2) are more than the job can feed"
    )
    assert done.status == 0
    assert done.lines[0] == "#!/bin/bash"


def test_a_signal_that_comes_at_once(site: Path, command: Any) -> None:
    short = command("slurm", "my.toml", "--template=requeue", "--time=3")
    assert short.err.startswith("sfxproc: --time 3 leaves little before the signal")
    assert command("slurm", "my.toml", "--template=requeue", "--time=4").err == ""
    assert command("slurm", "my.toml", "--time=3").err == ""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--nodes=0"], "'--nodes'"),
        (["--time=2h"], "--time '2h' is not a time SLURM knows"),
        (["--time=0:00"], "--time '0:00' is no time at all"),
        (["--mem-per-cpu=2 G"], "--mem-per-cpu '2 G'"),
        (["--mem-per-cpu=lots"], "--mem-per-cpu 'lots' is not a size SLURM knows"),
        (["--account=a b"], "--account 'a b': expected one word"),
        (["--template=array"], "--template array needs --list FILE"),
        (["--list=sets.lst"], "--template array needs --list FILE"),
        (["--template=array", "--list=none.lst"], "The list 'none.lst' cannot be read"),
        (["--template=array", "--list=empty.lst"], "The list 'empty.lst' is empty"),
        (["--set", "symmetry.group=1"], "unknown key 'symmetry.group'"),
    ],
)
def test_nonsense_is_refused(wrong: list[str], words: str, site: Path, command: Any) -> None:
    """So that what stands after the pipe gets nothing to queue."""
    (site / "empty.lst").write_text("\n\n")
    done = command("slurm", "my.toml", *wrong)
    assert (done.status, done.out) == (2, "")
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("2:00:00", 2 * HOUR),
        ("1-0", 24 * HOUR),
        ("1-02:30", 26.5 * HOUR),
        ("2-01:01:01", 49 * HOUR + 61),
        ("UNLIMITED", float("inf")),
    ],
)
def test_times_as_slurm_reads_them(time: str, seconds: float) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["", "1-", "-1", "1:2:3:4", "1.5", "1 h", "0", "0-0"])
def test_times_slurm_does_not_read(time: str) -> None:
    with pytest.raises(ConfigError, match="Give"):
        seconds_of(time)


@pytest.mark.parametrize(
    ("memory", "size"),
    [("2G", 2 << 30), ("500M", 500 << 20), ("500", 500 << 20), ("1t", 1 << 40), ("4KB", 4096)],
)
def test_memory_as_slurm_reads_it(memory: str, size: int) -> None:
    assert bytes_of(memory) == size


def test_more_ranks_than_there_is_work_for() -> None:
    useful = estimate(config_of()).useful_ranks(threads=2)
    assert warnings_of(config_of(), useful, 1 << 40, threads=2) == []
    (told,) = warnings_of(config_of(), useful + 1, 1 << 40, threads=2)
    assert told.endswith(f"from {useful + 1} ranks on some find nothing to do.")


def test_more_memory_than_a_rank_has() -> None:
    needed = estimate(config_of()).bytes_per_rank(2, 1)
    assert warnings_of(config_of(), 2, needed) == []
    (told,) = warnings_of(config_of(), 2, needed - 1)
    assert told.startswith("A rank is expected to need ")


def test_inputs_that_are_not_there_yet(site: Path, command: Any) -> None:
    (site / "my.toml").write_text(JOB.partition("[simulate]")[0] + '[input]\npaths = ["no.h5"]\n')
    done = command("slurm", "my.toml")
    assert done.status == 0
    assert done.err.startswith("sfxproc: What the job needs could not be estimated. ")
    assert "no.h5" in done.err
    assert command("slurm", "my.toml", "--template=array", "--list=sets.lst").err == ""
