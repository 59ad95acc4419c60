"""What `hvdm submit` and `hvdm jobs` ask of a cluster, and ranges of workers."""

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from hvdm.config import ClusterConfig
from hvdm.errors import RunError, UserError
from launcher import cli, compose
from launcher.arguments import call
from launcher.remote import jobs
from launcher.workers import backend, cluster, group, sharing


class Cluster:
    """The Jobs API as far as we use it. Looks are done by a shell, which may see other folders."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.seen: dict[str, str] = {}
        self.looks: dict[str, str] = {}

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[Any]:
        return list(self.jobs.values())

    def submit_job(self, submission_id: str, **given: Any) -> str:
        if submission_id.startswith("look-"):
            for here, there in self.seen.items():
                given["entrypoint"] = given["entrypoint"].replace(here, there)
            asked = subprocess.run(given["entrypoint"], shell=True, capture_output=True, text=True)
            self.looks[submission_id] = asked.stdout
            return submission_id
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id, status=SimpleNamespace(value="RUNNING"), message=None,
            start_time=1000, end_time=None, **given,
        )  # fmt: skip
        return submission_id

    def get_job_info(self, job: str) -> Any:
        return self.jobs[job]

    def delete_job(self, job: str) -> None:
        del self.looks[job]

    def get_job_status(self, job: str) -> Any:
        if job in self.looks:
            return SimpleNamespace(value="SUCCEEDED")
        return self.jobs[job].status

    def get_job_logs(self, job: str) -> str:
        return self.looks.get(job, f"the words of {job}\n")

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield f"{job} begins\n"
        self.end(job, "FAILED" if "bad" in job else "SUCCEEDED")

    def stop_job(self, job: str) -> None:
        self.end(job, "STOPPED")

    def end(self, job: str, status: str) -> None:
        self.jobs[job].status = SimpleNamespace(value=status)
        self.jobs[job].message = "exit code 1:\n  no such data"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()

    monkeypatch.setattr(jobs, "_client", lambda address: cluster)
    return cluster


def submitted(*typed: str) -> int:
    there = [] if any(word.startswith("data.path=") for word in typed) else ["data.path=/shared/it"]
    return call(jobs.submit, ["config=tiny/hvdm_autoencoder", *there, *typed])


def test_a_run_is_checked_here_and_its_paths_are_whole(
    there: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("my data", "datasets/shapes"):
        (tmp_path / path).mkdir(parents=True)
    assert submitted("run=runs/mine", "data.path=my data", "batch=16", "follow=false") == 0
    assert "submitted train-mine" in capsys.readouterr().out
    job = there.jobs["train-mine"]
    assert job.entrypoint == (
        "hvdm train config=tiny/hvdm_autoencoder cluster=existing batch=16 "
        f"'data.path={tmp_path}/my data' run={tmp_path}/runs/mine"
    )
    assert job.metadata == {"hvdm.run": f"{tmp_path}/runs/mine"}
    assert int(job.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 60
    assert submitted("run=runs/theirs", "trust=true", "follow=false") == 0
    assert " trust=true " in there.jobs["train-theirs"].entrypoint
    with pytest.raises(UserError, match="batch_size"):
        submitted("batch_size=16")
    with pytest.raises(UserError, match="runs where it is submitted"):
        submitted("cluster=local")


def test_what_is_of_this_machine_alone_is_refused(
    there: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    there.seen = {str(tmp_path): "/of/another/machine"}
    command = ["submit", "config=tiny/hvdm_autoencoder", "follow=false"]
    for more, key in (
        (["run=runs/mine", "data.path=s3://bucket/shapes"], f"run={tmp_path}/runs/mine"),
        (["data.path=s3://bucket/shapes"], f"run={tmp_path}/runs/tiny/hvdm_autoencoder"),
        (["run=/shared/mine", "data.path=../shapes"], f"data.path={tmp_path}/../shapes"),
        (["run=/shared/mine"], f"data.path={tmp_path}/datasets/shapes"),
    ):
        assert cli.main([*command, *more]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"hvdm: {key} is of this machine, and the cluster does not have it")
        assert told.count("\n") == 1 and not there.jobs and not there.looks
    assert cli.main([*command, "run=/shared/mine", "data.path=/shared/shapes"]) == 0
    assert not list(tmp_path.rglob(".hvdm-shared-*"))


class TwoNodes:
    """What is asked of Ray: another node sees other folders, a third has no room for a worker."""

    exceptions = ray.exceptions

    def __init__(self, seen: dict[str, str]) -> None:
        self.seen = seen

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "1" * 56)

    def nodes(self) -> list[Any]:
        cpus = {"10.0.0.1": 4, "10.0.0.3": 0, "10.0.0.2": 4}
        return [
            {"Alive": True, "NodeID": a[-1] * 56, "NodeManagerAddress": a, "Resources": {"CPU": n}}
            for a, n in cpus.items()
        ]

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(
            options=lambda **where: SimpleNamespace(
                remote=lambda *given: self._asked(where, function, given)
            )
        )

    def _asked(self, where: Any, function: Any, given: Any) -> Any:
        assert where["scheduling_strategy"].node_id == "2" * 56
        return lambda: function(*map(self._there, given))

    def get(self, answer: Any, timeout: float) -> Any:
        same, missing = answer()
        return same, [here for here, there in self.seen.items() if there in missing]

    def _there(self, given: Any) -> Any:
        if isinstance(given, list):
            return [self._there(one) for one in given]
        for here, there in self.seen.items():
            given = given.replace(here, there)
        return given


@pytest.mark.parametrize(
    "own, said",
    [
        ("run", "run={0}/run is another folder on node 10.0.0.2"),
        ("data", "data.path={0}/data is not there on node 10.0.0.2"),
    ],
)
def test_train_refuses_what_another_node_does_not_share(
    own: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    run, data = f"{tmp_path}/run", [f"{tmp_path}/data"]
    where = ClusterConfig("existing")
    sharing.check(TwoNodes({}), where, run, data)
    with pytest.raises(UserError) as found:
        sharing.check(TwoNodes({f"{tmp_path}/{own}": f"{tmp_path}/elsewhere"}), where, run, data)
    assert said.format(tmp_path) in str(found.value) and "\n" not in str(found.value)
    assert not list((tmp_path / "run").iterdir())


class Later:
    """A group that starts after a loss, its first rank on a node that came meanwhile."""

    def __init__(self, run: Path, there: Path) -> None:
        self._places = {"10.0.0.9": (str(run), str(there)), "10.0.0.1": ("", "")}

    def get_workers(self) -> list[Any]:
        return [SimpleNamespace(metadata=SimpleNamespace(node_ip=a)) for a in self._places]

    def execute(self, function: Any, mark: str, data: Any) -> list[Any]:
        return [function(mark.replace(*place), data) for place in self._places.values()]


def test_a_node_that_comes_later_is_looked_at_when_a_group_starts_there(tmp_path: Path) -> None:
    """Without it a first rank there finds no checkpoint and begins at step 0, unseen."""
    watch = backend.Watch(str(tmp_path / "run"), 1.0)
    watch.after_worker_group_start(Later(tmp_path, tmp_path))
    with pytest.raises(UserError) as found:
        watch.after_worker_group_start(Later(tmp_path, tmp_path / "elsewhere"))
    assert f"run={tmp_path}/run is another folder on node 10.0.0.9" in str(found.value)
    assert not list((tmp_path / "run").iterdir())


def test_what_the_controller_refuses_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit() -> None:
        raise ray.train.ControllerError(UserError("run=a is another folder on node b"))

    monkeypatch.setattr(group, "_trainer", lambda *_: SimpleNamespace(fit=fit))
    with pytest.raises(UserError, match="^run=a is another folder on node b$"):
        group.fit(lambda given: None, {}, ClusterConfig("inline"), tmp_path)


def test_a_busy_machine_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(ray, "init", slow)
    with (
        pytest.raises(RunError, match="cluster=local: Ray's processes did not begin") as found,
        cluster.connected(ClusterConfig("local")),
    ):
        raise AssertionError("it began")
    assert "\n" not in str(found.value)


def test_a_run_is_not_given_to_two_jobs(there: Cluster, capsys: Any) -> None:
    submitted("run=/shared/mine", "follow=false")
    with pytest.raises(UserError, match="being trained by job train-mine"):
        submitted("run=/shared/mine", "follow=false")
    submitted("run=/other/mine", "follow=false")
    there.end("train-mine", "FAILED")
    submitted("run=/shared/mine", "follow=false")
    assert list(there.jobs) == ["train-mine", "train-mine-2", "train-mine-3"]
    assert there.jobs["train-mine-3"].metadata == {"hvdm.run": "/shared/mine"}
    assert call(jobs.list_, ["--json"]) == 0
    rows = json.loads(capsys.readouterr().out.partition("[")[2].join(["[", ""]))
    assert [row["status"] for row in rows] == ["FAILED", "RUNNING", "RUNNING"]


def test_it_is_followed_to_its_end(there: Cluster, capsys: Any) -> None:
    assert submitted("run=/shared/good") == 0
    assert "train-good begins\ntrain-good: succeeded" in capsys.readouterr().out
    with pytest.raises(RunError, match="train-bad failed: exit code 1: no such data"):
        submitted("run=/shared/bad")


def test_jobs_are_looked_at_and_stopped_by_name(there: Cluster, capsys: Any) -> None:
    submitted("run=/shared/mine", "follow=false")
    assert call(jobs.logs, ["train-mine"]) == 0
    assert "the words of train-mine" in capsys.readouterr().out
    assert call(jobs.stop, ["train-mine"]) == 0
    with pytest.raises(UserError, match="has ended already: stopped"):
        call(jobs.stop, ["train-mine"])
    with pytest.raises(UserError, match="did you mean 'train-mine'"):
        call(jobs.logs, ["train-mime"])
    with pytest.raises(UserError, match="one job is expected"):
        call(jobs.stop, [])


def test_no_cluster_is_one_line(capsys: Any) -> None:
    assert cli.main(["jobs", "list", "address=http://127.0.0.1:9"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("hvdm: address=http://127.0.0.1:9") and told.count("\n") == 1
    assert "ssh -L 8265" in told and "0.0.0.0" not in told, "whoever reaches it runs code as you"


# Ranges of workers


def test_a_range_of_workers() -> None:
    config = compose.run_config("tiny/hvdm_autoencoder", ["cluster.workers=2..8"])
    assert (config.cluster.fewest_workers, config.cluster.workers) == (2, 8)
    assert group._count(config.cluster) == (2, 8)
    alone = compose.run_config("tiny/hvdm_autoencoder", ["cluster.workers=3"])
    assert group._count(alone.cluster) == 3
    where = compose.group("cluster", "existing", ["cluster.workers=1..4"])
    assert (where["fewest_workers"], where["workers"]) == (1, 4)


@pytest.mark.parametrize("typed", ["0..4", "5..4"])
def test_a_range_that_is_none(typed: str) -> None:
    with pytest.raises(UserError, match=f"cluster.workers={typed} is no range"):
        compose.run_config("tiny/hvdm_autoencoder", [f"cluster.workers={typed}"])
