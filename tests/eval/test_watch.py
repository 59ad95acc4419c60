"""Following a run: each checkpoint once, none lost to retention, training never touched."""

import json
import time

import pytest

from eval.evaluate import Request, evaluate
from eval.watch import committed, is_finished, watch
from hvdm.checkpoint import checkpoint, leases
from hvdm.disk import atomic_write
from hvdm.errors import UserError
from launcher.cli import main

FVD = {"protocol": "fvd/tf-reference@1", "detector": "untrained", "clips": 6, "pictures": False}


class Training:
    """Commits a checkpoint whenever the watcher pauses, and finishes after the last one."""

    def __init__(self, make_run, steps, keep=None):
        self.make_run, self.steps, self.keep = make_run, list(steps), keep
        self.run = None
        self.pauses = 0

    def begin(self):
        self.run = self.make_run(kind="generator", step=self.steps.pop(0))
        self.event("started")
        return self

    def event(self, name):
        with open(self.run / "events.jsonl", "a") as file:
            file.write(json.dumps({"event": name, "time": time.time()}) + "\n")

    def __call__(self, seconds):
        self.pauses += 1
        assert self.pauses < 20
        if self.steps:
            self.make_run(kind="generator", step=self.steps.pop(0), scale=1 + self.pauses)
        if not self.steps:
            self.event("finished")


def requests(run):
    return [Request(str(run), **FVD)]


def results(run):
    return sorted(p.name for p in (run / "evaluations").glob("fvd*.json"))


def test_every_committed_checkpoint_is_evaluated_once(make_run):
    training, seen = Training(make_run, (2, 4, 6)).begin(), []

    def run(function, items):
        seen.append(len(items))
        return map(function, items)

    found = watch(requests(training.run), run, lambda text: None, 0, training)
    assert [result["step"] for result in found] == [2, 4, 6]
    assert seen == [12, 6, 6], "the real clips are seen once"
    assert len(results(training.run)) == 3
    again = watch(requests(training.run), run, lambda text: None, 0, training)
    assert [result["step"] for result in again] == [2, 4, 6]
    assert all(result["known"] for result in again) and len(seen) == 3


def test_across_a_restart_of_the_job(make_run):
    training = Training(make_run, (2, 4)).begin()
    make_run(kind="generator", step=4)
    calls = []

    def dies(function, items):
        items = list(items)
        calls.append(len(items))
        for k, item in enumerate(items):
            if len(calls) == 2 and k == 3:
                raise KeyboardInterrupt
            yield function(item)

    with pytest.raises(KeyboardInterrupt):
        watch(requests(training.run), dies, lambda text: None, 0, training)
    assert len(results(training.run)) == 1 and not leases.current(training.run).get("x")
    training.event("finished")
    calls.append(0)
    found = watch(requests(training.run), dies, lambda text: None, 0, training)
    assert [result["step"] for result in found] == [2, 4]
    assert calls == [12, 6, 0, 3], "what was measured before the job died is not done again"


def test_raw_weights_beside_the_averages(make_run):
    run = make_run(kind="generator", scale=3.0, average=1.0)
    both = [Request(str(run), averaged=flag, **FVD) for flag in (True, False)]
    averaged, raw = (evaluate(request, say=lambda text: None) for request in both)
    assert averaged["averaged"] is True and raw["averaged"] is False
    assert averaged["values"] != raw["values"]
    assert averaged["fingerprint"] == raw["fingerprint"], "they compare"
    assert "-raw-" in raw["path"] and "-raw-" not in averaged["path"]
    rows = (run / "evaluations" / "history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[5] for row in rows] == ["ema", "raw"]
    plain = make_run("plain", kind="generator")
    only = [evaluate(r, say=lambda text: None) for r in
            (Request(str(plain), averaged=flag, **FVD) for flag in (True, False))]  # fmt: skip
    assert only[0]["averaged"] is None and only[1]["known"], "this run keeps no averages"


def test_a_checkpoint_is_leased_while_it_is_evaluated_and_the_best_for_good(make_run):
    training, held = Training(make_run, (2, 4)).begin(), []

    def run(function, items):
        held.append(dict(leases.current(training.run)))
        return map(function, items)

    watch(requests(training.run), run, lambda text: None, 0, training)
    assert 2 in held[0].values() and 4 in held[1].values()
    best = json.loads((training.run / "evaluations" / "best.json").read_text())["best"]
    chosen = best["fvd/tf-reference@1"]
    values = {json.loads((training.run / "evaluations" / name).read_text())["step"]:
              json.loads((training.run / "evaluations" / name).read_text())["values"]["fvd"]
              for name in results(training.run)}  # fmt: skip
    assert chosen["step"] == min(values, key=values.get)
    assert list(leases.current(training.run).values()) == [chosen["step"]]


def test_leases_are_renewed_run_out_and_broken_ones_count_for_nothing(tmp_path):
    leases.take(tmp_path, "old", 3, time.time() - 1)
    leases.take(tmp_path, "a/b", 4, time.time() + 60, why="testing")
    (leases.folder(tmp_path) / "broken.json").write_text("{")
    (leases.folder(tmp_path) / "list.json").write_text("[]")
    assert leases.current(tmp_path) == {"a_b": 4}
    with leases.held(tmp_path, 7, lasts_s=0.05):
        path = next(p for p in leases.folder(tmp_path).iterdir() if "step-00000007" in p.name)
        first = json.loads(path.read_text())["until"]
        deadline = time.monotonic() + 20
        while json.loads(path.read_text())["until"] == first:
            assert time.monotonic() < deadline
    assert not path.exists()


def test_what_is_being_written_or_removed_is_not_evaluated(make_run):
    run = make_run(kind="generator", step=2)
    whole = checkpoint.listed(run)[0].path
    for name in (".part-step-00000004", ".trash-step-00000006", "step-00000008"):
        (whole.parent / name).mkdir()
    (whole.parent / "step-00000010").mkdir()
    (whole.parent / "step-00000010" / "manifest.json").write_text("{")
    assert committed(run) == [2]


def test_a_checkpoint_that_vanishes_is_passed_over(make_run):
    training, said = Training(make_run, (2, 4)).begin(), []

    def run(function, items):
        import shutil

        if "removed" not in said:
            said.append("removed")
            shutil.rmtree(checkpoint.listed(training.run)[0].path)
            from eval.clips.subject import forget

            forget()
        return map(function, items)

    found = watch(requests(training.run), run, said.append, 0, training)
    assert [result["step"] for result in found] == [4]
    assert any("step 2" in text for text in said[1:])


def test_training_goes_on_after_it_had_finished(tmp_path):
    lines = [{"event": name} for name in ("started", "finished", "saved")]
    path = tmp_path / "events.jsonl"
    atomic_write(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    assert is_finished(tmp_path)
    atomic_write(path, path.read_bytes() + b'{"event": "resumed"}\n')
    assert not is_finished(tmp_path)


def test_watching_from_the_command_line(make_run, capsys):
    training = Training(make_run, (2,)).begin()
    training.event("finished")
    typed = ["evaluate", f"run={training.run}", "watch=true", "clips=4", "cluster=inline",
             "protocol=fvd/tf-reference@1", "detector=untrained"]  # fmt: skip
    assert main(typed) == 0
    out = capsys.readouterr().out
    assert "step 2" in out and "wrote" in out
    with pytest.raises(UserError, match="leave @2 out"):
        watch([Request(f"{training.run}@2", **FVD)])
    assert main([*typed, "average=both"]) == 0
