"""`hvdm submit` and `hvdm jobs …`: a run as a Ray Job on a cluster, and what becomes of it."""

import asyncio
import json
import os
import shlex
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hvdm.config import RunConfig, plain
from hvdm.data.store import is_remote
from hvdm.errors import RunError, UserError, closest
from hvdm.options import gathered, option
from launcher import compose, paths
from launcher.arguments import overrides
from launcher.run_options import KEYS, NAME, OpensRuns
from launcher.verb import tell
from launcher.workers import sharing
from launcher.workers.cluster import ray_module

T = TypeVar("T")
RUN = "hvdm.run"
ALIVE = ("PENDING", "RUNNING")
STOP_WAIT_S = "180"
"""Ray kills a job that was told to stop after three seconds, unless it is told otherwise."""

DASHBOARD = "http://HEAD:8265"


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(OpensRuns):
    config: str = option(
        about="as in hvdm train; a YAML file has to lie where the cluster sees it",
        shown="NAME", example=NAME,
    )  # fmt: skip
    address: str | None = option(
        None, "the head's dashboard; default $RAY_API_SERVER_ADDRESS", shown=DASHBOARD
    )
    follow: bool = option(True, "show its output until it ends")
    working_dir: str | None = option(
        None, "a folder that Ray copies to the job, for modules of your own", shown="DIR"
    )
    command: str = option("hvdm", "how hvdm is called there")
    json: bool = option(False, "the job's name and command as data, without following it")
    keys: Mapping[str, str] = gathered(
        "any key of hvdm train; what is relative has to be shared", "KEY=VALUE", KEYS
    )
    examples: ClassVar = (
        "submit config=tiny/hvdm_autoencoder address=http://head:8265 cluster.workers=8",
        "submit config=mine.yaml working_dir=. follow=false",
    )


def submit(asked: SubmitOptions) -> int:
    """Checks the config here, and starts `hvdm train` with it there."""
    client = _client(asked.address)
    typed = _for_the_cluster(overrides(asked.keys))
    config = compose.run_config(asked.config, typed)
    more = ["trust=true"] if asked.trust else []
    entrypoint = _entrypoint(asked.command, asked.config, [*more, *typed], config)
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT_S, "PYTHONUNBUFFERED": "1"}
    runtime: dict[str, Any] = {"env_vars": environment}
    if asked.working_dir:
        runtime["working_dir"] = asked.working_dir
    job = _new_id(client, config.run)
    _look(client, _of_this_folder(config, typed))
    metadata = {RUN: config.run}
    _asked(lambda: client.submit_job(
        entrypoint=entrypoint, submission_id=job, runtime_env=runtime, metadata=metadata
    ))  # fmt: skip
    if asked.json:
        print(json.dumps({"job": job, "run": config.run, "entrypoint": entrypoint}, indent=1))
        return 0
    print(f"submitted {job}: {entrypoint}", flush=True)
    if not asked.follow:
        print(f"hvdm jobs logs {job} address={client.get_address()}")
        return 0
    return _follow(client, job)


def _for_the_cluster(typed: list[str]) -> list[str]:
    for override in typed:
        key, _, value = override.partition("=")
        if key == "cluster" and value != "existing":
            raise UserError(f"{override}: a job runs where it is submitted; leave it out")
    return ["cluster=existing", *(o for o in typed if not o.startswith("cluster="))]


def _entrypoint(command: str, name: str, typed: list[str], config: RunConfig) -> str:
    """What was typed, with whole paths: the job begins in another folder, maybe elsewhere."""
    if Path(name).suffix in (".yaml", ".yml"):
        name = str(Path(name).absolute())
    whole = list(paths.typed(plain(config)))
    keys = {override.partition("=")[0] for override in whole}
    kept = [override for override in typed if override.partition("=")[0] not in keys]
    return shlex.join([*shlex.split(command), "train", f"config={name}", *kept, *whole])


def _of_this_folder(config: RunConfig, typed: list[str]) -> dict[str, str]:
    """What has to be the same there as here: relative paths, and what is below this folder."""
    relative = {o.partition("=")[0] for o in typed if o.partition("=")[2][:1] not in ("/", "~")}
    found = {"run": config.run, "data.path": config.data.path}
    return {
        key: path
        for key, path in found.items()
        if not is_remote(path) and (key in relative or Path(path).is_relative_to(Path.cwd()))
    }


def _look(client: Any, found: Mapping[str, str]) -> None:
    """Refuses paths of this machine that the cluster does not share, by a job of its shell."""
    if not found:
        return
    with ExitStack() as stack:
        marks = dict(found)
        if "run" in found:
            check = stack.enter_context(sharing.StorageCheck(Path(found["run"])))
            marks["run"] = str(check.mark)
        missing = _missing(client, marks)
    for key in missing:
        raise UserError(
            f"{key}={found[key]} is of this machine, and the cluster does not have it: give "
            f"{key}=DIR as a whole path of storage that both share, or as it is there"
        )


def _missing(client: Any, marks: Mapping[str, str]) -> list[str]:
    looks = [f"test -e {shlex.quote(path)} || echo {key}" for key, path in marks.items()]
    job = f"look-{uuid.uuid4().hex[:8]}"
    _asked(lambda: client.submit_job(entrypoint="; ".join(looks), submission_id=job))
    while str(_asked(lambda: client.get_job_status(job)).value) in ALIVE:
        time.sleep(0.2)
    said = str(_asked(lambda: client.get_job_logs(job))).splitlines()
    _asked(lambda: client.delete_job(job))
    return [key for key in marks if key in said]


def _new_id(client: Any, run: str) -> str:
    """Named by the run. One that still trains it is not joined by a second one."""
    jobs = [job for job in _asked(client.list_jobs) if job.submission_id]
    alive = [j for j in jobs if str(j.status.value) in ALIVE and (j.metadata or {}).get(RUN) == run]
    if alive:
        there = alive[0].submission_id
        raise UserError(f"{run} is being trained by job {there}: hvdm jobs logs|stop {there}")
    taken, base, number = {job.submission_id for job in jobs}, f"train-{Path(run).name}", 1
    while (name := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    return name


# The jobs of a cluster


@dataclass(frozen=True, kw_only=True)
class JobsOptions:
    address: str | None = option(None, "the head's dashboard", shown=DASHBOARD)
    json: bool = option(False, "as data")
    examples: ClassVar = ("jobs list address=http://head:8265",)


def list_(asked: JobsOptions) -> int:
    client = _client(asked.address)
    jobs = [_row(job) for job in _asked(client.list_jobs) if job.submission_id]
    jobs.sort(key=lambda row: row["began"] or 0)
    none = f"{client.get_address()} has had no jobs; hvdm submit config=NAME starts one"
    return tell(asked.json, jobs, "\n".join(map(_listed, jobs)) or none)


def _listed(row: Mapping[str, Any]) -> str:
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["began"] or 0))
    return f"{row['job']:<32} {row['status']:<10} {began}  {row['run'] or row['entrypoint']}"


def _row(job: Any) -> dict[str, Any]:
    return {
        "job": job.submission_id,
        "status": str(job.status.value),
        "run": (job.metadata or {}).get(RUN),
        "entrypoint": job.entrypoint,
        "began": job.start_time and job.start_time / 1000,
        "ended": job.end_time and job.end_time / 1000,
        "message": job.message,
    }


@dataclass(frozen=True, kw_only=True)
class LogsOptions:
    job: str | None = option(None, "its name; see hvdm jobs list", shown="JOB", word=True)
    follow: bool = option(False, "go on until it ends; default false")
    address: str | None = option(None, "the head's dashboard", shown=DASHBOARD)
    examples: ClassVar = ("jobs logs train-sky address=http://head:8265 follow=true",)


def logs(asked: LogsOptions) -> int:
    client, job = _chosen(asked.address, asked.job)
    if asked.follow:
        return _follow(client, job)
    print(_asked(lambda: client.get_job_logs(job)), end="")
    return 0


@dataclass(frozen=True, kw_only=True)
class StopOptions:
    job: str | None = option(None, "its name; see hvdm jobs list", shown="JOB", word=True)
    address: str | None = option(None, "the head's dashboard", shown=DASHBOARD)
    examples: ClassVar = ("jobs stop train-sky address=http://head:8265",)


def stop(asked: StopOptions) -> int:
    client, job = _chosen(asked.address, asked.job)
    status = str(_asked(lambda: client.get_job_status(job)).value)
    if status not in ALIVE:
        raise UserError(f"job {job} has ended already: {status.lower()}")
    _asked(lambda: client.stop_job(job))
    while str(_asked(lambda: client.get_job_status(job)).value) in ALIVE:
        time.sleep(0.2)
    print(f"stopped {job} after a step, with a checkpoint; the same hvdm submit goes on")
    return 0


def _chosen(address: str | None, job: str | None) -> tuple[Any, str]:
    client = _client(address)
    if job is None:
        raise UserError("one job is expected, as job=NAME; hvdm jobs list shows their names")
    known = [str(one.submission_id) for one in _asked(client.list_jobs) if one.submission_id]
    if job not in known:
        raise UserError(f"no job {job!r} at {client.get_address()}; {closest(job, known)}")
    return client, job


def _follow(client: Any, job: str) -> int:
    """Its output as it comes, and at last how it ended. An interrupt leaves it running."""
    try:
        asyncio.run(_show(client, job))
    except KeyboardInterrupt:
        print(f"\n{job} goes on; hvdm jobs logs {job} follow=true shows it again")
        return 130
    info = _asked(lambda: client.get_job_info(job))
    status = str(info.status.value)
    if status == "FAILED":
        raise RunError(f"job {job} failed: {' '.join((info.message or '').split())[:300]}")
    print(f"{job}: {status.lower()}")
    return 0


async def _show(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)


def _client(address: str | None) -> Any:
    """The Jobs API is at the dashboard's port of the head."""
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    address = address or "http://127.0.0.1:8265"
    if "://" not in address:
        address = f"http://{address}"
    ray_module()
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise RunError(
            f"address={address}: no Ray dashboard answers ({line[:120]}); give the head's: "
            "ssh -L 8265:localhost:8265 HEAD brings it to address=http://localhost:8265"
        ) from None


def _asked(question: Callable[[], T]) -> T:
    try:
        return question()
    except (RuntimeError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise RunError(f"the cluster refused: {lines[-1].strip()[:300]}") from None
