"""SLURM: jobs are submitted by sbatch, asked for by squeue, ended by scancel."""

import math
import os
import re
import shlex
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from app.worker.launchers.database import DATABASE_VARIABLE
from app.worker.launchers.launcher import (
    JOB_VARIABLE,
    LEAD,
    PATIENCE,
    ClusterSilentError,
    JobNeeds,
    State,
)
from app.worker.launchers.several_nodes.torchrun import on_several_nodes
from app.worker.launchers.slurm_answers import FIELDS, setting, states_of
from app.worker.launchers.slurm_limits import FIELDS as LIMITS
from app.worker.launchers.slurm_limits import MIB, gpus_for, minutes_of
from opd.errors import UserError

WHERE = "--launcher slurm"
# Where the processes of several nodes meet: on the first of them.
MEET = (
    '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
    ':$((20000 + SLURM_JOB_ID % 20000))"'
)
SILENT = re.compile(
    r"unable to contact|timed out|zero bytes|connection refused|not connected|unable to resolve"
    r"|munge|authentication|temporarily unable|no route|configuration file|unreachable",
    re.I,
)
# Of a controller that runs inside a job itself, or of a person's habits: not for what is asked.
OURS = re.compile(r"^(SLURM_(?!CONF$)|SQUEUE_|SCANCEL_|SINFO_|CUDA_VISIBLE_DEVICES$|OPD_JOB$)")


class Slurm:
    name = "slurm"
    title = "SLURM"

    def __init__(self) -> None:
        self.grace = 30.0  # SLURM's own default for KillWait

    def check(self) -> None:
        seconds = setting("KillWait", self._ask("scontrol", "show", "config"))
        if seconds is not None:
            self.grace = seconds

    def submit(self, key: str, command: Sequence[str], needs: JobNeeds, log: Path) -> str:
        if (job := self._living(key)) is not None:
            return job
        gpus = gpus_for(needs, self._ask("sinfo", "--noheader", f"--format={LIMITS}"))
        options = [f"--job-name={key}", *_options(needs, gpus), *_output(log)]
        script = _script(command, needs, key)
        return self._ask("sbatch", "--parsable", *options, script=script).split(";")[0]

    def states(self, jobs: Collection[str]) -> dict[str, State]:
        if not jobs:
            return {}
        options = ("--noheader", "--states=all", f"--jobs={','.join(jobs)}", f"--Format={FIELDS}")
        listed = states_of(self._ask("squeue", *options, none="Invalid job id"))
        gone = State("unknown", "SLURM has no such job")
        return {job: listed.get(job, gone) for job in jobs}

    def stop(self, job: str) -> None:
        self._ask("scancel", "--quiet", job, none="Invalid job id")

    def log(self, job: str) -> str:
        text = self._ask("scontrol", "show", "job", job, none="Invalid job id")
        match = re.search(r"^\s*StdOut=(.+)$", text, re.M)
        try:
            return Path(match[1].replace("%%", "%")).read_text(errors="replace") if match else ""
        except OSError:
            return ""

    def _living(self, key: str) -> str | None:
        """The job of this name that has not ended. One that was refused may bear it, too."""
        options = ("--noheader", "--states=all", f"--name={key}", f"--Format={FIELDS}")
        states = states_of(self._ask("squeue", *options))
        return next((job for job, state in states.items() if not state.over), None)

    def _ask(self, *command: str, script: str | None = None, none: str | None = None) -> str:
        """The program's output; "" where it fails with what `none` names."""
        environment = {name: v for name, v in os.environ.items() if not OURS.match(name)}
        environment.pop(DATABASE_VARIABLE, None)
        try:
            done = subprocess.run(
                command,
                input=script or "",
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
                env=environment | {"LC_ALL": "C"},
            )
        except FileNotFoundError:
            text = f"{command[0]} is not installed here: the server must be a host of the cluster"
            raise ClusterSilentError(text, where=WHERE) from None
        except subprocess.TimeoutExpired:
            text = f"does not answer: {command[0]} said nothing for {PATIENCE:.0f} s"
            raise ClusterSilentError(text, where=WHERE) from None
        if done.returncode == 0:
            return done.stdout.strip()
        said = " ".join(done.stderr.split())
        if none is not None and none in said:
            return ""
        if SILENT.search(said):
            raise ClusterSilentError(f"does not answer: {said[-300:]}", where=WHERE)
        raise UserError(f"{command[0]} refused it: {_reason(done.stderr)}", where=WHERE)


def _options(needs: JobNeeds, gpus: int) -> list[str]:
    if needs.labels:
        raise UserError("is for Ray; SLURM has partitions", where="resources.labels")
    lead = LEAD if needs.hours is None else min(LEAD, int(needs.hours * 3600 / 4))
    options = [f"--nodes={needs.nodes}", "--no-requeue", "--chdir=/", f"--signal=B:TERM@{lead}"]
    options += ["--ntasks-per-node=1"] if needs.nodes > 1 else []
    options += [f"--gres=gpu:{gpus}"] if gpus else []
    options += [f"--cpus-per-task={needs.cpus}"] if needs.cpus is not None else []
    options += [f"--partition={needs.partition}"] if needs.partition is not None else []
    if needs.memory_gb is not None:
        options.append(f"--mem={math.ceil(needs.memory_gb * 1e9 / MIB)}M")
    if needs.hours is not None:
        options.append(f"--time={minutes_of(needs.hours)}")
    return options


def _output(log: Path) -> list[str]:
    return [f"--output={str(log).replace('%', '%%')}", "--open-mode=append"]


def _script(command: Sequence[str], needs: JobNeeds, key: str) -> str:
    """`exec`: the signal of `--signal=B:` goes to the job's first process."""
    start = shlex.join(command)
    if needs.nodes > 1:
        start = f"srun --kill-on-bad-exit=1 {on_several_nodes(command, needs, key, MEET)}"
    return f'#!/bin/sh\nexport {JOB_VARIABLE}="slurm:$SLURM_JOB_ID"\nexec {start}\n'


def _reason(stderr: str) -> str:
    """In a line, without the names of the programs that said it."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))[:400]
