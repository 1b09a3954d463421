"""A cluster of one node on this machine, with two GPUs that are none; no systemd, no accounting."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol")
"""Debian's packages slurm-wlm and munge have them."""
FOLDERS = ("/usr/sbin", "/sbin")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=15
MpiDefault=none
MaxArraySize=51
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Gres=gpu:2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def why_not() -> str:
    """Why no cluster can be started here; empty if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "Slurm's daemons are started by root, on Linux"
    missing = [name for name in NEEDED if not shutil.which(name, path=_path())]
    return f"not installed (slurm-wlm, munge): {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start Slurm, and stop it and all of its tasks.

    Args:
        folder: for its state; its path is short, for sockets lie there.

    Yields:
        The environment with which its commands reach it.
    """
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(2)
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, ports=ports))
    devices = [folder / "gpu0", folder / "gpu1"]
    for device in devices:
        # The null device: a plain file is refused.
        os.mknod(device, 0o600 | 0o020000, os.makedev(1, 3))
    lines = [f"NodeName={host} Name=gpu File={device}\n" for device in devices]
    (folder / "gres.conf").write_text("".join(lines))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(configuration)}
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: object) -> None:
        log = (folder / f"{words[0]}.out").open("wb")
        started.append(
            subprocess.Popen([*map(str, words)], env=environment, stdout=log, stderr=log)
        )
        log.close()

    try:
        start(
            *("munged", "--foreground", "--force", f"--socket={folder}/munge.socket"),
            *(f"--key-file={key}", f"--pid-file={folder}/munged.pid"),
            *(f"--seed-file={folder}/munged.seed", f"--log-file={folder}/munged.log"),
        )
        _wait_for((folder / "munge.socket").exists)
        start("slurmctld", "-D", "-f", configuration)
        start("slurmd", "-D", "-f", configuration, "-N", host)
        _wait_for(lambda: _state(environment) == "idle")
        yield environment
    finally:
        subprocess.run(["scancel", "--full", "--signal=KILL", "--user=root"], env=environment)
        for process in started[::-1]:
            process.send_signal(signal.SIGTERM)
        # What runs a task is no child of what has started it.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURM_CONF") == str(configuration):
                    process.kill()
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def _state(environment: dict[str, str]) -> str:
    words = ["sinfo", "--noheader", "--format=%T"]
    found = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _wait_for(condition: object) -> None:
    deadline = time.monotonic() + 600
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "Slurm did not start"
        time.sleep(0.2)


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS])


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
