"""Evaluations of what is made of the data: a picture's motion, a picture's other sides."""

import json
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from eval.blocks.cost import counted, told
from eval.clips.data_rows import DataRows
from eval.clips.sources import FrameSelection
from eval.clips.subject import CheckpointModel, Samples, open_model
from eval.evaluate import evaluate_all
from eval.report.measured import charts
from hvdm import dist, opening, sampling
from hvdm.errors import UserError
from tests.support.ranks import Ranks
from tests.support.small_runs import SMALL, Small

pytestmark = pytest.mark.processes

Place = tuple[Small, Path, Path]


def quiet(text: str) -> None:
    return None


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Place]:
    """A family's run and its data, made when they are first asked for."""
    known: dict[str, Place] = {}

    def place(family: str) -> Place:
        if family not in known:
            folder, small = tmp_path_factory.mktemp(family), SMALL[family]
            data = small.data(folder)
            known[family] = small, small.trained(folder, data), data
        return known[family]

    return place


def measured(place: Place, run: Any = map, **more: Any) -> list[dict[str, Any]]:
    small, folder, data = place
    request = small.request(folder, data, again=True, **more)
    return evaluate_all(request, run, quiet)


def dealt(ranks: Ranks) -> Callable[..., Iterator[Any]]:
    """Each process of the group does its share of the items."""

    def run(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for part in ranks.run(_share, pickle.dumps(function), list(items)):
            yield from part

    return run


def _share(function: bytes, items: list[Any]) -> list[Any]:
    own = pickle.loads(function)
    return [own(item) for item in items[dist.rank() :: dist.world()]]


def without_times(results: list[dict[str, Any]]) -> str:
    return json.dumps(
        [{k: v for k, v in one.items() if k not in ("time", "seconds")} for one in results]
    )


@pytest.mark.parametrize("family", SMALL)
def test_equal_json_on_1_2_and_3_workers(
    family: str,
    places: Callable[[str], Place],
    tmp_path: Path,
    one_rank: Ranks,
    two_ranks: Ranks,
    three_ranks: Ranks,
) -> None:
    place, found = places(family), []
    for ranks in (one_rank, two_ranks, three_ranks):
        found.append(without_times(measured(place, dealt(ranks), out=str(tmp_path / "out"))))
    assert found[0] == found[1] == found[2]


# Image dynamics


@pytest.fixture
def dynamics(places: Callable[[str], Place]) -> Place:
    return places("image_dynamics")


def samples_of(place: Place, what: str, fields: tuple[str, ...]) -> Samples:
    _, folder, data = place
    weights = opening.open_run(folder).weights_hash
    model = CheckpointModel(str(folder), 2, weights, True)
    return Samples(model, 5, what=what, given=DataRows(str(folder), str(data), "test", fields))


def test_a_sample_is_made_of_the_row_of_its_number(dynamics: Place) -> None:
    samples = samples_of(dynamics, "image", ("video",))
    both = samples.drawn((3, 1), "cpu")
    opened = open_model(samples.model, "cpu")
    rows = samples.rows((3, 1), "cpu")
    assert rows is not None
    for at, draw in enumerate((3, 1)):
        typed = sampling.ask(opened.recipe, "image", options={"image": rows["video"][at, 0]})
        alone = sampling.draw(opened, typed, 5, (draw,))[0]
        torch.testing.assert_close(alone, both[at], atol=1e-4, rtol=0)
    assert (both[0] - both[1]).abs().mean() > 0.01


def test_what_never_moves_is_measured_beside_it(dynamics: Place, tmp_path: Path) -> None:
    """The same number as of a folder of clips that repeat their first frame."""
    (result,) = measured(dynamics, protocol="fvd/tf-reference@1", out=str(tmp_path), what="image")
    data = dynamics[2].parent / "sway/test"
    rows = DataRows(str(dynamics[1]), str(dynamics[2].parent / "sway"), "test", ("video",))
    (tmp_path / "still").mkdir()
    batch = rows.rows(tuple(range(rows.count())), "cpu")
    for key, first in enumerate(batch["video"][:, :1].numpy()):
        np.savez(tmp_path / f"still/{key:03d}.npz", np.repeat(first, 16, 0))
    small, _, _ = dynamics
    by_hand = replace(small.asked, protocol="fvd/tf-reference@1", real=str(data), clips=8,
                      generated=str(tmp_path / "still"), out=str(tmp_path))  # fmt: skip
    (other,) = evaluate_all(by_hand, map, quiet)
    still, alone = result["values"]["fvd_still"], other["values"]["fvd"]
    assert still == pytest.approx(alone, rel=1e-9) and still > 0
    assert result["values"]["fvd"] != still


def test_calls_and_multiply_adds_stand_beside_the_figure(dynamics: Place, tmp_path: Path) -> None:
    """Those of the network's calls, of what makes a motion of them, and of splatting."""
    (result,) = measured(dynamics, protocol="fid@1", out=str(tmp_path), steps=3)
    (longer,) = measured(dynamics, protocol="fid@1", out=str(tmp_path), steps=5)
    cost, more = result["cost"], longer["cost"]
    # told and untold, at each step
    assert cost["calls"] == {"denoiser": 6} and more["calls"] == {"denoiser": 10}
    samples = samples_of(dynamics, "image", ("video",))
    opened, rows = open_model(samples.model, "cpu"), samples.rows((0,), "cpu")
    recipe: Any = opened.recipe
    latent = torch.zeros(1, recipe.config.bins, *recipe.below.latent_shape)
    assert rows is not None
    with FlopCounterMode(display=False) as counter:
        times = torch.zeros(1, dtype=torch.long)
        recipe.predict(opened.nets, latent, times, rows.pixels()[:, :, 0], True)
    call = counter.get_total_flops() // 2
    assert more["multiply_adds"] - cost["multiply_adds"] == 4 * call
    splats = 16 * 4 * 16 * 24 * 3
    assert cost["multiply_adds"] - 6 * call > splats


def test_a_product_with_a_sparse_matrix_costs_what_is_in_it() -> None:
    matrix = torch.eye(50).to_sparse_csr()
    nets = torch.nn.ModuleDict({"one": torch.nn.Linear(3, 4, bias=False)})
    with counted(nets) as cost:
        matrix @ torch.ones(50, 7)
        nets["one"](torch.ones(2, 3))
        nets["one"](torch.ones(2, 3))
    assert cost.multiply_adds == 50 * 7 + 2 * (2 * 3 * 4)
    assert told(cost.arrays(2)) == {"calls": {"one": 2}, "multiply_adds": (350 + 48) / 2}


def test_a_sliding_window_has_a_curve_of_what_never_moves(dynamics: Place, tmp_path: Path) -> None:
    """And one of all windows together is of as many rows as there are windows."""
    small, folder, data = dynamics
    asked = {"protocol": "fvd/sliding-window@1", "out": str(tmp_path)}
    (result,) = measured(dynamics, **asked)
    (beside,) = result["baselines"].values()
    assert [row["frame"] for row in result["curve"]] == [0] == [r["frame"] for r in beside["curve"]]
    page = charts([result])
    assert "over frames" in page and ">still</text>" in page


def test_what_a_kind_or_a_protocol_cannot_have_is_one_line(
    dynamics: Place, places: Callable[[str], Place], tmp_path: Path
) -> None:
    for protocol, what, said in (
        ("fid@1", "touch", "gives page, and fid@1 looks at film and images"),
        ("nfid@1", None, "what=novel: this model cannot sample that"),
        ("reconstruction@1", None, "needs an autoencoder"),
    ):
        with pytest.raises(UserError, match=said):
            measured(dynamics, protocol=protocol, what=what, out=str(tmp_path))
    wild = places("wildfusion")
    with pytest.raises(UserError, match="sample.cut: non-flatness@1 fixes it"):
        measured(wild, protocol="non-flatness@1", options={"cut": 0.1}, out=str(tmp_path))
    with pytest.raises(UserError, match="has no field 'depth'"):
        shapes = SMALL["wavediff"].data(tmp_path)
        small, folder, _ = wild
        (tmp_path / "test").symlink_to(shapes / "test")
        DataRows(str(folder), str(tmp_path), "test", ("video", "depth")).rows((0,), "cpu")


# WildFusion


def test_reconstruction_is_of_the_picture_with_its_depth(
    places: Callable[[str], Place], tmp_path: Path
) -> None:
    wild = places("wildfusion")
    (result,) = measured(wild, protocol="reconstruction@1", out=str(tmp_path))
    samples = samples_of(wild, "image", ("video", "depth"))
    opened = open_model(replace(samples.model, averaged=True), "cpu")
    rows = samples.rows(tuple(range(8)), "cpu")
    assert rows is not None
    coder: Any = opened.recipe.coder
    made = coder.decode(opened.nets, coder.encode(opened.nets, rows))
    a, b = made["depth"].double().flatten(1), rows["depth"].double().flatten(1)
    errors = []
    for x, y in zip(a.numpy(), b.numpy()):
        slope, shift = np.polyfit(x, y, 1)
        errors.append(np.sqrt(np.square(slope * x + shift - y).mean()))
    assert result["values"]["depth_error"] == pytest.approx(np.mean(errors), rel=1e-4)
    error = (made["video"] - rows.pixels()).square().mean((1, 2, 3, 4)) / 4
    assert result["values"]["psnr"] == pytest.approx(float(-10 * error.log10().mean()), abs=0.05)


def test_true_views_are_nearer_than_the_picture_and_the_warp_knows_what_is_seen(
    places: Callable[[str], Place], tmp_path: Path
) -> None:
    """Of exact depth, the moved pixels are right where the picture shows what is there."""
    (result,) = measured(places("wildfusion"), protocol="views@1", out=str(tmp_path))
    values = result["values"]
    assert values["psnr_seen_warp"] > values["psnr_unseen_warp"]
    assert values["psnr_seen_warp"] > values["psnr_seen_repeated"]
    assert values["gain_over_repeated"] == pytest.approx(values["psnr"] - values["psnr_repeated"])
    assert {"ssim", "ssim_warp", "ssim_repeated"} <= set(values)


def test_flatness_is_that_of_the_maps_without_their_haze(
    places: Callable[[str], Place], tmp_path: Path
) -> None:
    wild = places("wildfusion")
    (result,) = measured(wild, protocol="non-flatness@1", out=str(tmp_path))
    assert 1 <= result["values"]["non_flatness"] <= 64
    samples = samples_of(wild, "places", ("video", "depth"))
    net: Any = open_model(samples.model, "cpu").recipe
    whole = replace(samples, options={"cut": 0.0}).drawn((0, 1), "cpu")
    depth = replace(samples, what="depth").made_of(samples.rows((0, 1), "cpu"), (0, 1), "cpu")
    torch.testing.assert_close(whole, net.camera.spacing.of(depth))
    cut = samples.drawn((0, 1), "cpu")
    assert not torch.equal(cut, whole)


def test_still_clips_are_cut_as_all_others_are(dynamics: Place) -> None:
    from eval.clips.data_rows import Still

    rows = DataRows(str(dynamics[1]), str(dynamics[2]), "test", ("video",))
    clips = Still(rows, 16).read((2,), FrameSelection(8, 2), "cpu")
    assert clips.videos[0].shape == (8, 16, 24, 3)
    assert torch.equal(clips.videos[0][0], clips.videos[0][7])
