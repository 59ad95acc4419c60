import dataclasses
import json
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from eval.clips import subject
from eval.evaluate import Request, evaluate
from eval.results import compare, line, read
from hvdm.errors import RunError, UserError
from tests.support.ranks import forked

FVD = {"protocol": "fvd/tf-reference@1", "detector": "untrained"}


def quiet(text):
    return None


def measured(run, executor=map, **asked):
    asked = {"protocol": "reconstruction@1"} | asked
    return evaluate(Request(run=str(run), **asked), executor, quiet)


def far_away(function, items):
    """Like workers elsewhere: everything travels as bytes, nothing is shared, order is lost."""
    for item in reversed(list(items)):
        subject.forget()
        yield pickle.loads(pickle.dumps(function(pickle.loads(pickle.dumps(item)))))


def test_reconstruction(make_run):
    run, said = make_run(), []
    result = evaluate(Request(str(run), "reconstruction@1", clips=10), say=said.append)
    clips = result["clips"]
    assert len({row["key"] for row in clips}) == 10
    assert len(clips) == result["counts"]["clips"] == 10
    mean = sum(row["psnr"] for row in clips) / 10
    assert result["values"]["psnr"] == pytest.approx(mean)
    assert 20 < mean < 40 and 0.5 < result["values"]["ssim"] < 1
    assert 0 < result["standard_error"]["psnr"] < 5
    assert result["comparable"] and result["detector"] is None
    assert result["step"] == 4 and len(result["weights"]) == 64
    assert "psnr" in said[-1] and said[-1] == line(result)


def test_the_result_is_a_file_named_after_protocol_step_and_fingerprint(make_run):
    run = make_run()
    result = measured(run, clips=4)
    path = run / "evaluations" / f"reconstruction@1-step-00000004-{result['fingerprint'][:8]}.json"
    assert result.pop("path") == str(path)
    assert read(path) == json.loads(json.dumps(result))
    assert not list(path.parent.glob(".*"))
    fvd = measured(run, clips=4, **FVD)
    assert fvd["path"].startswith(str(run / "evaluations" / "fvd_tf-reference@1-step-00000004-"))
    names = sorted(p.name for p in (run / "samples").iterdir())
    assert names == ["reconstructions-step-00000004.mp4", "reconstructions-step-00000004.png"]


def test_fvd_of_samples(make_run):
    result = measured(make_run(kind="generator"), clips=20, **FVD)
    assert not result["comparable"] and result["generated"] == "samples"
    assert result["values"]["fvd"] > result["controls"]["shuffled_frames"] > 0
    assert result["standard_error"]["fvd"] > 0 and result["null_bias"]["fvd"] > 0
    assert result["debiased"]["fvd"] is None
    assert any("no debiased value" in text for text in result["warnings"])
    assert [row["clips"] for row in result["blocks"]] == [1] * 20
    assert result["controls"]["halves"]["clips"] == 10
    assert "not comparable" in line(result)


def test_fvd_of_an_autoencoder_is_that_of_its_reconstructions(make_run):
    result = measured(make_run(), clips=8, **FVD)
    assert result["generated"] == result["fields"]["generated"]["what"] == "reconstructions"
    assert result["values"]["fvd"] < 1


@pytest.mark.parametrize("asked", [{}, FVD])
def test_equal_to_the_bit_wherever_the_blocks_are_measured(make_run, asked):
    run = make_run(kind="generator" if asked else "autoencoder")
    asked = {"clips": 11, "again": True, **asked}
    here, there = measured(run, **asked), measured(run, far_away, **asked)
    timing = ("time", "seconds")
    assert {k: v for k, v in here.items() if k not in timing} == {
        k: v for k, v in there.items() if k not in timing
    }


@pytest.mark.processes
def test_equal_to_the_bit_in_two_processes(make_run):
    run = make_run(kind="generator")
    with ProcessPoolExecutor(2, mp_context=forked()) as pool:
        there = measured(run, pool.map, clips=9, **FVD)
    here = measured(run, clips=9, again=True, **FVD)
    assert there["values"] == here["values"] and there["blocks"] == here["blocks"]


def test_a_block_that_never_came_is_no_result(make_run):
    def loses_one(function, items):
        return [function(item) for item in list(items)[1:]]

    with pytest.raises(RunError, match="1 of 8 blocks"):
        measured(make_run(), loses_one, clips=8)


def test_the_step_is_fixed_before_the_work_is_handed_out(make_run):
    run = make_run(step=4)

    def while_training_goes_on(function, items):
        make_run(step=8, scale=0.1)
        return far_away(function, items)

    assert measured(run, while_training_goes_on, clips=4)["step"] == 4
    assert measured(run, clips=4)["step"] == 8
    assert measured(f"{run}@4", clips=4)["step"] == 4


def test_a_checkpoint_that_is_replaced_meanwhile_is_noticed(make_run):
    run = make_run()

    def replaced(function, items):
        make_run(scale=0.1)
        return far_away(function, items)

    with pytest.raises(RunError, match="was replaced"):
        list(measured(run, replaced, clips=4))


def test_fewer_clips_than_asked_are_all_used_and_it_says_so(make_run):
    run, said = make_run(), []
    result = evaluate(Request(str(run), "reconstruction"), say=said.append)
    assert result["counts"]["clips"] == 21 and result["counts"]["asked"] == 256
    assert "asks for 256 clips, real= has 21" in said[0]
    assert result["fingerprint"] == measured(run, clips=21)["fingerprint"]


def test_features_that_are_not_finite_name_the_sample(make_run):
    with pytest.raises(RunError, match=r"shard-00000\d.tar/test-\d+: .* not finite"):
        measured(make_run(scale=float("nan")), clips=4)
    with pytest.raises(RunError, match="sample 0 of seed 0: .* not finite"):
        measured(make_run(kind="generator", scale=float("nan")), clips=4, **FVD)


def test_requests_that_cannot_be_met(make_run):
    autoencoder, generator = make_run(), make_run("generator", kind="generator")
    cases = [
        (generator, {}, "needs an autoencoder.*fvd/tf-reference@1"),
        (autoencoder, {"protocol": "fvd/tf-reference@1"}, "detector=i3d.*weights"),
        (autoencoder, {"steps": 5}, "samples nothing"),
        (autoencoder, {"steps": 5, **FVD}, "samples nothing"),
        (autoencoder, {"protocol": "fud"}, "protocol='fud'"),
        (autoencoder, {"clips": 1}, "at least 2"),
        (f"{autoencoder}@99", {}, "no checkpoint of step 99; there are: 4"),
    ]
    for run, asked, message in cases:
        with pytest.raises(UserError, match=message):
            measured(run, **asked)


def test_compare_takes_numbers_that_were_measured_alike(make_run):
    a = measured(make_run("a"), clips=8)
    b = measured(make_run("b", scale=0.9), clips=8)
    change = compare(a, b)["values"]["psnr"]
    assert change["difference"] == pytest.approx(b["values"]["psnr"] - a["values"]["psnr"])
    assert change["difference"] < 0
    pairs = zip(a["clips"], b["clips"])
    apart = torch.tensor([y["psnr"] - x["psnr"] for x, y in pairs], dtype=torch.float64)
    assert change["standard_error"] == pytest.approx(float(apart.std() / 8**0.5))


def test_compare_refuses_others_and_names_the_field(make_run):
    run = make_run(kind="generator")
    base = measured(run, clips=8, **FVD)
    for asked, field in (
        ({"clips": 7}, "clips is 8 in the first and 7 in the second"),
        ({"seed": 1}, "generated.seed is 0"),
        ({"steps": 3}, "generated.steps is None"),
    ):
        with pytest.raises(UserError, match=field):
            compare(base, measured(run, **({"clips": 8, **FVD} | asked)))
    with pytest.raises(UserError, match="protocol is"):
        compare(base, measured(make_run("other"), clips=8))


def test_a_first_stage_that_changed_since_is_refused(make_run, monkeypatch):
    run = make_run(kind="generator", extra={"identity": {"first_stage_weights": "then"}})
    monkeypatch.setattr("hvdm.opening.stage_hashes", lambda config: {"first_stage": "then"})
    assert measured(run, clips=4, **FVD)["first_stage"] == "then"
    monkeypatch.setattr("hvdm.opening.stage_hashes", lambda config: {"first_stage": "now"})
    with pytest.raises(UserError, match="first_stage.*other weights now"):
        measured(run, clips=4, **FVD)


def test_results_that_are_none_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text("{")
    for name, message in (("a", "no fingerprint"), ("b", "not JSON"), ("c", "cannot be read")):
        with pytest.raises(UserError, match=message):
            read(tmp_path / f"{name}.json")


def test_tasks_are_small_and_plain(make_run):
    seen = []

    def watch(function, items):
        for item in items:
            seen.append(len(pickle.dumps((function, item))))
            assert dataclasses.is_dataclass(item[1])
            yield function(item)

    measured(make_run(), watch, clips=4)
    assert max(seen) < 2000


def test_pairs_are_said_before_they_are_begun():
    from eval import evaluate as evaluating

    assert evaluating._pairs(3, [2000, 50_000]) == "; 8e+09 pairs of features, fewer with clips=N"
    assert evaluating._pairs(3, [2000, 2000]) == evaluating._pairs(0, [10**6]) == ""
