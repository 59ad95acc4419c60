"""`hvdm submit` and `hvdm jobs …`: a run as a Ray Job on a cluster, and what becomes of it."""

import asyncio
import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hvdm.config import RunConfig
from hvdm.errors import RunError, UserError, closest
from launcher import compose
from launcher.arguments import Arguments
from launcher.workers.cluster import ray_module

T = TypeVar("T")
RUN = "hvdm.run"
ALIVE = ("PENDING", "RUNNING")
STOP_WAIT_S = "180"
"""Ray kills a job that was told to stop after three seconds, unless it is told otherwise."""

_PATHS: tuple[tuple[str, Callable[[RunConfig], str | None]], ...] = (
    ("run", lambda config: config.run),
    ("data.path", lambda config: config.data.path),
    ("first_stage", lambda config: config.first_stage),
    ("init", lambda config: config.init),
)


def submit(given: Arguments) -> int:
    """Checks the config here, and starts `hvdm train` with it there."""
    client = _client(given)
    follow, command = given.flag("follow", True), given.take("command", "hvdm") or "hvdm"
    working_dir, name = given.take("working_dir"), given.need("config", "tiny/hvdm_autoencoder")
    typed = _for_the_cluster(given.rest())
    config = compose.run_config(name, typed)
    entrypoint = _entrypoint(command, name, typed, config)
    environment = {"RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT_S, "PYTHONUNBUFFERED": "1"}
    runtime: dict[str, Any] = {"env_vars": environment}
    if working_dir:
        runtime["working_dir"] = working_dir
    job = _new_id(client, config.run)
    metadata = {RUN: config.run}
    _asked(lambda: client.submit_job(
        entrypoint=entrypoint, submission_id=job, runtime_env=runtime, metadata=metadata
    ))  # fmt: skip
    if given.json:
        print(json.dumps({"job": job, "run": config.run, "entrypoint": entrypoint}, indent=1))
        return 0
    print(f"submitted {job}: {entrypoint}", flush=True)
    if not follow:
        print(f"hvdm jobs logs {job} address={client.get_address()}")
        return 0
    return _follow(client, job)


def _for_the_cluster(typed: list[str]) -> list[str]:
    for override in typed:
        key, _, value = override.partition("=")
        if key == "cluster" and value != "existing":
            raise UserError(f"{override}: a job runs where it is submitted; leave it out")
        if key == "address":
            raise UserError("address= is taken; the workers' side is cluster.address")
    return ["cluster=existing", *(o for o in typed if not o.startswith("cluster="))]


def _entrypoint(command: str, name: str, typed: list[str], config: RunConfig) -> str:
    """What was typed, with whole paths: the job begins in another folder, maybe elsewhere."""
    if Path(name).suffix in (".yaml", ".yml"):
        name = str(Path(name).absolute())
    whole = {key: value(config) for key, value in _PATHS}
    whole |= {f"stages.{stage}": run for stage, run in config.stages.items()}
    kept = [o for o in typed if o.partition("=")[0] not in whole]
    paths = [f"{key}={value}" for key, value in whole.items() if value is not None]
    return shlex.join([*shlex.split(command), "train", f"config={name}", *kept, *paths])


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


def list_(given: Arguments) -> int:
    client = _client(given)
    given.done()
    jobs = [_row(job) for job in _asked(client.list_jobs) if job.submission_id]
    jobs.sort(key=lambda row: row["began"] or 0)
    if given.json:
        print(json.dumps(jobs, indent=1))
        return 0
    for row in jobs:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["began"] or 0))
        print(f"{row['job']:<32} {row['status']:<10} {began}  {row['run'] or row['entrypoint']}")
    if not jobs:
        print(f"{client.get_address()} has had no jobs; hvdm submit config=NAME starts one")
    return 0


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


def logs(given: Arguments) -> int:
    client, job = _chosen(given)
    follow = given.flag("follow", False)
    given.done()
    if follow:
        return _follow(client, job)
    print(_asked(lambda: client.get_job_logs(job)), end="")
    return 0


def stop(given: Arguments) -> int:
    client, job = _chosen(given)
    given.done()
    status = str(_asked(lambda: client.get_job_status(job)).value)
    if status not in ALIVE:
        raise UserError(f"job {job} has ended already: {status.lower()}")
    _asked(lambda: client.stop_job(job))
    while str(_asked(lambda: client.get_job_status(job)).value) in ALIVE:
        time.sleep(0.2)
    print(f"stopped {job} after a step, with a checkpoint; the same hvdm submit goes on")
    return 0


def _chosen(given: Arguments) -> tuple[Any, str]:
    client = _client(given)
    if len(given.words) != 1:
        raise UserError("one job is expected; hvdm jobs list shows their names")
    job = given.words[0]
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


def _client(given: Arguments) -> Any:
    """The Jobs API is at the dashboard's port of the head."""
    address = given.take("address") or os.environ.get("RAY_API_SERVER_ADDRESS")
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
            f"address={address}: no Ray dashboard answers ({line[:120]}); give the head's as "
            "address=http://HEAD:8265, started with ray start --head --dashboard-host=0.0.0.0"
        ) from None


def _asked(question: Callable[[], T]) -> T:
    try:
        return question()
    except (RuntimeError, OSError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise RunError(f"the cluster refused: {lines[-1].strip()[:300]}") from None
