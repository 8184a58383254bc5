"""A real SLURM on this machine: four nodes that are all this host, as root, without systemd.

Everything of it lives in one folder and listens on free ports of its own, munged included, so it
does not meet a SLURM that is already here. Daemons run in the foreground as children: what is
stopped at the end is what was started.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NODES = ("n1", "n2", "n3", "n4")
START_s = 30.0
STOP_s = 5.0
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
LAUNCHERS = ("PMI", "OMPI", "SLURM", "MPI_", "SBATCH_", "SRUN_")

# cred_expire: a job that was queued again waits as long, 120 s unless told. config_overrides: the
# four nodes are said to have more than this machine has. FirstJobId: MPI names its shared memory
# after the job, and that of one killed in an earlier cluster on this machine may still be there.
CONFIG = """\
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=8
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
TmpFS={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=pmi2
ReturnToService=1
SlurmdTimeout=60
KillWait=5
MinJobAge=3600
FirstJobId={first}
JobRequeue=1
SlurmdParameters=config_overrides
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=16000\n"
)


@dataclass
class Slurm:
    """The cluster and how to speak to it. Jobs run in `cwd`."""

    folder: Path
    environment: dict[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __call__(self, *command: object, cwd: Path | None = None, stdin: str = "") -> str:
        """The output of a SLURM command that must end well."""
        done = subprocess.run(
            [*map(str, command)],
            cwd=cwd,
            env=self.environment,
            input=stdin,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, *arguments: object, cwd: Path, stdin: str = "") -> str:
        """Queue a script; returns the number of the job."""
        return self("sbatch", "--parsable", *arguments, cwd=cwd, stdin=stdin).partition(";")[0]

    def job(self, number: str) -> dict[str, str]:
        """What the scheduler says of a job, by name of the field."""
        words = self("scontrol", "show", "job", "-o", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def states(self, number: str) -> list[str]:
        """The states of a job, of all its parts if it is an array."""
        return self("squeue", "-h", "-r", "-t", "all", "-j", number, "-o", "%T").split()

    def wait(self, number: str, timeout_s: float = 120) -> list[str]:
        """Wait until a job, with all its parts, has ended; returns its states."""
        self.until(lambda: all(state in ENDED for state in self.states(number)), timeout_s)
        return self.states(number)

    def until(
        self, true: Callable[[], Any], timeout_s: float = 120, log: Path | None = None
    ) -> Any:
        """Wait for something to become true; returns it."""
        end = time.monotonic() + timeout_s
        while not (answer := true()):
            if time.monotonic() > end:
                said = log.read_text() if log and log.exists() else ""
                pytest.fail(f"waited {timeout_s:.0f} s in vain\n{self('squeue', '-l')}\n{said}")
            time.sleep(0.1)
        return answer

    def start(self) -> None:
        """Start the daemons; fails if the nodes do not become idle."""
        host = socket.gethostname().partition(".")[0]
        ports = free_ports(1 + len(NODES))
        for name in ("state", "spool", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o755)
        first = 1 + int.from_bytes(os.urandom(3), "big")
        text = CONFIG.format(host=host, folder=self.folder, ports=ports, first=first)
        for name, port in zip(NODES, ports[1:], strict=True):
            text += NODE.format(name=name, host=host, port=port)
        config = Path(self.environment["SLURM_CONF"])
        config.write_text(text)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        munge = [f"--{name}={self.folder / f'munge.{name}'}" for name in ("socket", "pid-file")]
        munge += [f"--log-file={self.folder / 'munge.log'}", f"--key-file={key}"]
        munge += [f"--seed-file={self.folder / 'munge.seed'}"]
        self._daemon("munged", "--foreground", "--force", *munge)
        self.until(lambda: (self.folder / "munge.socket").exists(), START_s)
        self._daemon("slurmctld", "-D", "-c", "-f", config)
        for name in NODES:
            self._daemon("slurmd", "-D", "-f", config, "-N", name)
        self.until(lambda: self._idle() == len(NODES), START_s)

    def _idle(self) -> int:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-t", "idle"],
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return len(done.stdout.splitlines())

    def _daemon(self, name: str, *arguments: object) -> None:
        log = (self.folder / f"{name}-{len(self.daemons)}.out").open("wb")
        command = [shutil.which(name, path=PATH) or name, *map(str, arguments)]
        options = {"env": self.environment, "stdin": subprocess.DEVNULL, "start_new_session": True}
        with log:
            self.daemons.append(subprocess.Popen(command, stdout=log, stderr=log, **options))

    def stop(self) -> None:
        """Kill the jobs, then stop the daemons, munged last."""
        for signals in (["--signal=KILL", "--full"], []):
            command = ["scancel", *signals, "--user=root"]
            subprocess.run(
                command, env=self.environment, capture_output=True, timeout=60, check=False
            )
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(STOP_s)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def free_ports(n: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """SLURM with four idle nodes."""
    if shutil.which("slurmctld", path=PATH) is None:
        pytest.skip("slurmctld is not installed (Debian: slurm-wlm munge libpmix-dev)")
    if os.getuid() != 0:
        pytest.skip("SLURM's daemons want root here")
    folder = tmp_path_factory.mktemp("slurm")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    box = Slurm(folder, kept | {"PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")})
    try:
        box.start()
        yield box
    finally:
        box.stop()
