"""The job around the numbers: any number of workers, lost ones, and what is kept."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_tools.synthetic.rendering import render
from eval.blocks.feature_store import FeatureStore
from eval.blocks.tasks import Payload
from eval.evaluate import Request, evaluate
from eval.history import best
from eval.numbers.statistics import moments
from eval.results import compare, line
from hvdm.config import ClusterConfig
from hvdm.disk import atomic_write
from hvdm.errors import RunError, UserError
from launcher.cli import main
from launcher.workers import cluster
from tests.support import items

CALLABLES = Path(__file__).parent / "eval_callables.py"
FVD = {"protocol": "fvd/tf-reference@1", "detector": "untrained"}


def quiet(text):
    return None


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job") / "real"
    folder.mkdir()
    for i in range(26):
        np.savez(folder / f"{i:03d}.npz", render(1, i, 6, 32, 32).video)
    return folder


@pytest.fixture
def asked(real, tmp_path):
    def request(function="shapes", **more):
        given = {"real": str(real), "generated": f"python:{CALLABLES}:{function}", "seed": 2,
                 "out": str(tmp_path / "out"), "again": True, **FVD}  # fmt: skip
        return Request(None, **{**given, **more})

    return request


def without_times(result):
    return json.dumps({k: v for k, v in result.items() if k not in ("time", "seconds")})


# Workers


def workers(count):
    return ClusterConfig("local", workers=count, cpus_per_worker=0.2)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_equal_json_however_the_blocks_are_dealt(asked, count, cache):
    """As workers elsewhere would: by bytes, in turns, the last one first."""

    def dealt(function, items):
        items = list(items)
        for worker in reversed(range(count)):
            for item in items[worker::count]:
                yield pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(item)))))

    here = evaluate(asked(), say=quiet)
    shutil.rmtree(cache / "features")
    assert without_times(evaluate(asked(), dealt, quiet)) == without_times(here)


@pytest.mark.ray
def test_equal_json_with_two_workers_of_which_one_is_killed(ray_session, asked, tmp_path, cache):
    marker = tmp_path / "killed"
    marker.touch()
    os.environ["EVAL_TEST_MARKER"] = str(marker)
    here = evaluate(asked("killed_once"), say=quiet)
    marker.unlink()
    shutil.rmtree(cache / "features")
    there = evaluate(asked("killed_once"), _with_marker(marker), quiet)
    assert marker.exists()
    assert without_times(there) == without_times(here)


def _with_marker(marker):
    """Workers of the session were started before the test knew its folder."""

    def run(function, items):
        return cluster.stream(workers(2))(_Marked(function, str(marker)), items)

    return run


class _Marked:
    def __init__(self, function, marker):
        self.function, self.marker = function, marker

    def __call__(self, item):
        os.environ["EVAL_TEST_MARKER"] = self.marker
        return self.function(item)


@pytest.mark.ray
def test_what_kills_every_worker_ends_the_job(ray_session):
    with pytest.raises(RunError, match="a worker died on one item 3 times"):
        list(cluster.stream(workers(2))(items.kill, [5, 6, 7]))


@pytest.mark.ray
def test_errors_of_workers_arrive_as_they_were_said(ray_session):
    with pytest.raises(RunError, match="^not_a_number 5: not every value is finite$"):
        list(cluster.stream(workers(1))(items.refuse, [5]))


@pytest.mark.ray
def test_lists_keep_the_order_of_their_items(ray_session):
    assert cluster.over_ray(workers(2))(len, ["a", "bbb", "", "dd"]) == [1, 3, 0, 2]


# What is kept


def counting(seen):
    def run(function, items):
        items = list(items)
        seen.append(len(items))
        return map(function, items)

    return run


def test_an_evaluation_that_is_known_is_not_done_again(asked):
    seen = []
    first = evaluate(asked(again=False), counting(seen), quiet)
    told = []
    second = evaluate(asked(again=False), counting(seen), told.append)
    assert seen == [13 + 13] and second["known"]
    (known,) = [text for text in told if "known already" in text]
    assert re.search(r": measured on \d{4}-\d\d-\d\d \d\d:\d\d, again=true", known)
    assert told[-1] == line(second)
    assert second["values"] == first["values"] and second["time"] == first["time"]


def test_features_of_real_clips_are_shared_by_everyone_who_asks_alike(asked):
    seen = []
    evaluate(asked(), counting(seen), quiet)
    evaluate(asked(seed=3), counting(seen), quiet)
    evaluate(asked(clips=20), counting(seen), quiet)
    assert seen == [26, 13, 20 + 20]


def test_other_bytes_under_an_old_name_are_other_data(asked, real, tmp_path):
    """What torch-fidelity's cache, keyed by name, gets wrong."""
    copy, seen = tmp_path / "copy", []
    shutil.copytree(real, copy)
    first = evaluate(asked(real=str(copy)), counting(seen), quiet)
    np.savez(copy / "003.npz", render(9, 9, 6, 32, 32).video)
    second = evaluate(asked(real=str(copy)), counting(seen), quiet)
    assert seen == [26, 26]
    assert second["values"] != first["values"] and second["fingerprint"] != first["fingerprint"]
    shutil.copytree(real, tmp_path / "elsewhere")
    evaluate(asked(real=str(tmp_path / "elsewhere")), counting(seen), quiet)
    assert seen[2] == 13, "equal bytes elsewhere are the same data"


def test_a_damaged_block_is_measured_again(asked, cache):
    seen = []
    first = evaluate(asked(), counting(seen), quiet)
    path = sorted((cache / "features").rglob("block-*.npz"))[3]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    sorted((cache / "features").rglob("block-*.npz"))[5].unlink()
    second = evaluate(asked(), counting(seen), quiet)
    assert seen == [26, 15] and second["values"] == first["values"]


def test_a_job_that_was_stopped_goes_on_where_it_was(asked):
    def stops(function, items):
        for item in list(items)[:10]:
            yield function(item)
        raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked(again=False), stops, quiet)
    result = evaluate(asked(again=False), counting(seen), quiet)
    assert seen == [26 - 10]
    assert result["values"] == evaluate(asked(), say=quiet)["values"]


def test_blocks_fold_with_no_more_memory_for_more_samples(tmp_path):
    """What the statistics hold is a few matrices, however many blocks there are."""
    import tracemalloc

    def peak(blocks):
        store = FeatureStore("k" * 32 + str(blocks), blocks, tmp_path / str(blocks))
        for number in range(blocks):
            rows = np.random.Generator(np.random.PCG64(number)).normal(size=(64, 48))
            keys = np.asarray([f"{number}-{i}" for i in range(64)])
            store.put(Payload(number, {"features": rows.astype(np.float32), "keys": keys,
                                       "short": np.asarray(0)}))  # fmt: skip
        tracemalloc.start()
        found = store.moments("features", store.groups(20))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found) == 20 and sum(m.count for m in found.values()) == 64 * blocks
        return most

    assert peak(400) < 1.5 * peak(40)


def test_folded_blocks_are_the_moments_of_all_rows(tmp_path):
    store, parts = FeatureStore("a" * 32, 7, tmp_path), []
    for number in reversed(range(7)):
        rows = np.random.Generator(np.random.PCG64(number)).normal(size=(number + 1, 5))
        parts.append(rows.astype(np.float32))
        store.put(Payload(number, {"features": parts[-1], "short": np.asarray(1),
                                   "keys": np.asarray(["x"] * len(rows))}))  # fmt: skip
    assert not store.missing() and store.clips() == 28 and store.short() == 7
    whole = store.moments("features", [list(range(7))])[0]
    expected = moments(np.concatenate(parts[::-1]))
    np.testing.assert_allclose(whole.scatter, expected.scatter, rtol=1e-10)


# Results


def test_two_models_on_shared_blocks_have_a_narrower_difference(asked, tmp_path):
    a, b = (evaluate(asked(seed=seed, out=str(tmp_path / str(seed))), say=quiet) for seed in (2, 3))
    with pytest.raises(UserError, match="generated.seed is 2 in the first and 3"):
        compare(a, b)
    forced = compare(a, b, force=True)
    assert "generated.seed" in forced["warning"] and not forced["values"]["fvd"]["paired"]
    same = {**b, "fingerprint": a["fingerprint"], "fields": a["fields"]}
    row = compare(a, same)["values"]["fvd"]
    assert row["paired"] and row["standard_error"] > 0
    assert row["interval"][0] < row["difference"] < row["interval"][1]
    assert compare(a, a)["values"]["fvd"] == {
        "a": a["values"]["fvd"], "b": a["values"]["fvd"], "difference": 0,
        "standard_error": 0, "interval": [0, 0], "paired": True,
    }  # fmt: skip


def test_compare_from_the_command_line(asked, tmp_path, capsys):
    a, b = (evaluate(asked(seed=seed, out=str(tmp_path / str(seed))), say=quiet) for seed in (2, 3))
    assert main(["compare", a["path"], b["path"]]) == 2
    assert "force=true" in capsys.readouterr().err
    assert main(["compare", a["path"], b["path"], "force=true"]) == 0
    out = capsys.readouterr().out
    assert "warning: these numbers do not compare" in out and "fvd: " in out and "95 %" in out


def test_a_run_keeps_a_table_scalars_and_pictures(make_run):
    run = make_run(kind="generator")
    evaluate(Request(str(run), **FVD, clips=20), say=quiet)
    rows = (run / "evaluations" / "history.csv").read_text().splitlines()
    assert rows[0].startswith("time,protocol,detector,comparable,step,weights,metric,value")
    assert len(rows) == 2 and ",fvd," in rows[1] and ",4,raw," in rows[1]
    assert list((run / "logs" / "tensorboard").iterdir())
    names = sorted(p.name for p in (run / "samples").iterdir())
    assert names == ["samples-step-00000004.mp4", "samples-step-00000004.png"]


def test_the_best_step_is_chosen_among_numbers_that_compare():
    def result(step, value, fingerprint="f", metric="fvd"):
        return {"protocol": "p@1", "step": step, "values": {metric: value},
                "fingerprint": fingerprint, "averaged": True}  # fmt: skip

    rows = [result(1, 5.0, "old"), result(2, 9.0), result(3, 7.0), result(4, 8.0)]
    assert best(rows, "p@1", "fvd")["step"] == 3
    assert best([result(1, 20.0, metric="psnr"), result(2, 30.0, metric="psnr")], "p@1", "psnr")[
        "step"] == 2  # fmt: skip
    assert best(rows, "other@1", "fvd") is None


def test_reconstructions_have_an_fvd_where_a_detector_is_named(make_run):
    run = make_run()
    request = Request(str(run), "reconstruction@1", "untrained", clips=12)
    result = evaluate(request, say=quiet)
    assert set(result["values"]) == {"psnr", "ssim", "rfvd"}
    assert result["controls"]["shuffled_frames"] > result["values"]["rfvd"] > 0
    assert any("no LPIPS" in text for text in result["warnings"])
    assert "not comparable" in line(result)


def test_scalars_go_to_weights_and_biases_in_a_run_of_their_own(make_run, monkeypatch):
    import sys
    import types

    import yaml

    run, said = make_run(kind="generator"), []

    class Fake:
        def define_metric(self, *names, **more):
            said.append((names, more))

        def log(self, values):
            said.append(values)

        def finish(self):
            said.append("finished")

    monkeypatch.setitem(
        sys.modules, "wandb",
        types.SimpleNamespace(init=lambda **given: (said.append(given), Fake())[1]),
    )  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["log"] = {**config.get("log", {}), "wandb": True, "tensorboard": False}
    atomic_write(run / "config.yaml", yaml.safe_dump(config).encode())
    result = evaluate(Request(str(run), **FVD, clips=8), say=quiet)
    assert said[0]["id"] == "run-evaluation" and said[-1] == "finished"
    assert said[2]["training_step"] == 4
    assert said[2]["evaluation/fvd/tf-reference@1/fvd"] == result["values"]["fvd"]
