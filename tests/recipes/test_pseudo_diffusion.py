"""Frame diffusion: public networks to the digit, windows, losses, samples."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hvdm.errors import UserError
from hvdm.recipe import Batch, Clip, Context, Given, Noise
from hvdm.recipes.pseudo_video import diffusion, released
from hvdm.recipes.pseudo_video.diffusion import Config
from hvdm.recipes.pseudo_video.unet import Slots, UNet, UNetShape
from hvdm.sampling import ask

HERE = Path(__file__).parent
MULTIPLIERS = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4)}
COUNTS = {
    ("fdm", 32): 49_065_987,
    ("fdm", 64): 115_985_411,
    ("improved_diffusion", 32): 39_625_603,
    ("improved_diffusion", 64): 92_025_731,
}
SMALL = Config(
    frames=4, width=16, multipliers=(1, 2), attention=(8, 4), blocks=1, heads=2, steps=100,
    sampling_steps=100,
)  # fmt: skip
CLIP = Clip(1, 8, 8)


def public(code: str, side: int, **changes: Any) -> UNet:
    shape = UNetShape(side, 128, MULTIPLIERS[side], (16, 8), temporal=code == "fdm", released=True)
    with torch.device("meta"):
        return UNet(replace(shape, **changes))


def listed(code: str, side: int) -> dict[str, tuple[int, ...]]:
    lines = (HERE / "released_keys" / f"{code}_{side}.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines)
    return {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


def named(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights that anyone can make from a name."""
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if value.dim() > 1:
        return value / value[0].numel() ** 0.5
    return 0.1 * value + (1.0 if name.endswith("weight") else 0.0)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("code, side", COUNTS)
def test_networks_give_what_the_public_ones_give(code: str, side: int) -> None:
    net = public(code, side)
    assert sum(p.numel() for p in net.parameters()) == COUNTS[code, side]
    assert released.shapes(net) == listed(code, side)
    state = {name: named(name, shape) for name, shape in listed(code, side).items()}
    net.load_state_dict(released.to_ours(net, state), assign=True)
    again = released.to_released(net, net.state_dict(), released.shapes(net))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    t = torch.tensor([321])
    with torch.no_grad():
        if code == "fdm":
            clean, noisy = drawn(2, 1, 3, 3, side, side), drawn(1, 1, 3, 3, side, side)
            observed = torch.tensor([[True, True, False]])
            frames = torch.where(observed[:, :, None, None, None], clean, noisy)
            out = net(frames, t, observed, Slots(torch.tensor([[3, 4, 7]]), observed >= 0))
        else:
            out = net(drawn(1, 1, 3, side, side), t)
    golden = json.loads((HERE.parent / "golden" / "pseudo_video.json").read_text())
    row = golden[f"{code}_{side}"]
    some = out.flatten()[::97][: len(row["every_97th"])]
    assert float((some - torch.tensor(row["every_97th"])).abs().max()) < 1e-4 * row["std"]
    assert float(out.std()) == pytest.approx(row["std"], rel=1e-4)
    assert float(out.mean()) == pytest.approx(row["mean"], abs=1e-4 * row["std"])


def test_a_file_says_its_sizes() -> None:
    learned = public("improved_diffusion", 32, blocks=3, outputs=6)
    state = {name: torch.empty(shape) for name, shape in released.shapes(learned).items()}
    assert released.sizes("unet", state) == [
        "model.width=128",
        "model.multipliers=[1, 2, 2, 2]",
        "model.blocks=3",
        "model.attention=[16, 8]",
        "model.variance=learned",
        "model.schedule=cosine",
        "model.steps=4000",
        "data.height=32",
        "data.width=32",
    ]
    plain = {name: torch.empty(shape) for name, shape in listed("improved_diffusion", 64).items()}
    said = released.sizes("unet", plain)
    assert "model.blocks=2" in said and "data.height=64" in said
    assert not any("variance" in one for one in said)
    with pytest.raises(UserError, match="no U-Net of images"):
        released.sizes("unet", {"a": torch.empty(1)})
    assert released.problem("improved_diffusion", public("fdm", 32))
    assert released.problem("improved_diffusion", public("improved_diffusion", 32)) is None


# The recipe


def built(config: Config = SMALL, clip: Clip = CLIP) -> Any:
    torch.manual_seed(0)
    recipe = diffusion.build(config, Given(clip))
    for parameter in recipe.trained.parameters():  # its zero layers would say nothing
        torch.nn.init.normal_(parameter, std=0.05)
    return recipe


def rows(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(256, (count, 1, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return Batch({"video": video}, ("row",) * count, tuple(range(count)), torch.ones(count))


def context(count: int = 6) -> Context:
    return Context(0, tuple(range(count)), "phase0")


def test_a_window_is_the_first_frames_or_the_next_one() -> None:
    recipe = built(replace(SMALL, frames=5, context=3))
    places, observed, used = recipe._window(torch.tensor([0, 1, 2]))
    assert places.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 4]]
    assert observed.tolist() == [[False] * 4, [True, True, True, False], [True, True, True, False]]
    assert used.tolist() == [[True, True, True, False], [True] * 4, [True] * 4]


def test_a_slot_that_is_not_in_use_changes_nothing() -> None:
    net = built().trained["denoiser"]
    frames, t = drawn(1, 2, 3, 3, 8, 8), torch.tensor([3.0, 700.0])
    places = torch.tensor([[0, 1, 2]]).expand(2, 3)
    used = torch.tensor([[True, True, False]]).expand(2, 3)
    none = torch.zeros(2, 3, dtype=torch.bool)
    out = net(frames, t, none, Slots(places, used))[:, :2]
    alone = net(frames[:, :2], t, none[:, :2], Slots(places[:, :2], used[:, :2]))
    assert torch.allclose(out, alone, atol=1e-5)
    other = torch.cat((frames[:, :2], 5 * frames[:, 2:]), 1)
    assert torch.allclose(net(other, t, none, Slots(places, used))[:, :2], out, atol=1e-5)
    moved = Slots(places + torch.tensor([0, 2, 2]), used)
    assert not torch.allclose(net(frames, t, none, moved)[:, :2], out, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, frames=1, context=1)])
def test_losses_are_the_rows_own(config: Config) -> None:
    recipe = built(config)
    loss, _ = recipe.loss(rows(), context())
    batch = rows()
    one = Batch({"video": batch["video"][4:5]}, ("row",), (4,), torch.ones(1))
    alone, _ = recipe.loss(one, Context(0, (4,), "phase0"))
    assert loss.shape == (6,) and torch.allclose(loss[4:5], alone, rtol=1e-4)


def test_an_empty_answer_costs_one_whatever_the_window() -> None:
    recipe = built()
    for parameter in recipe.trained["denoiser"].head.parameters():
        torch.nn.init.zeros_(parameter)
    loss, _ = recipe.loss(rows(), context())
    assert loss.detach().tolist() == pytest.approx([1.0] * 6, abs=0.25)


@pytest.mark.parametrize(
    "frames, around, calls",
    [(1, 1, 1000), (4, 2, 3000), (8, 4, 5000)],
)
def test_samples_take_as_many_calls_as_the_paper_says(frames: int, around: int, calls: int) -> None:
    config = replace(SMALL, frames=frames, context=around, steps=1000, sampling_steps=1000)
    recipe = diffusion.build(config, Given(Clip(1, 2, 2)))
    told: list[int] = []

    def said(nets: Any, frames: Tensor, *rest: Any) -> Tensor:
        told.append(frames.shape[1])
        return frames * 0.1

    recipe._said = said  # type: ignore[attr-defined]
    out = recipe.sample(recipe.trained, ask(recipe), Noise(0, (0,)))
    assert len(told) == calls and out.shape == (1, 3, 2, 2)
    later = calls - 1000
    assert told.count(around + 1) == later and told.count(around) == 1000


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++2m"])
@pytest.mark.parametrize("frames", [1, 4])
def test_samples_are_by_their_number(sampler: str, frames: int) -> None:
    recipe = built(replace(SMALL, frames=frames, context=min(2, frames)))
    request = ask(recipe, steps=3, options={"sampler": sampler})
    both = recipe.sample(recipe.trained, request, Noise(0, (0, 1)))
    one = recipe.sample(recipe.trained, request, Noise(0, (1,)))
    assert both.shape == (2, 3, 8, 8) and torch.allclose(one[0], both[1], atol=1e-5)
    film = recipe.sample(recipe.trained, replace(request, what="frames"), Noise(0, (0, 1)))
    assert film.shape == (2, 3, frames, 8, 8) and torch.allclose(film[:, :, -1], both)


def test_a_learned_variance_is_learned_and_sampled_by() -> None:
    config = replace(SMALL, frames=1, variance="learned", schedule="cosine")
    recipe = built(config)
    head = recipe.trained["denoiser"].head
    loss, _ = recipe.loss(rows(), context())
    (slope,) = torch.autograd.grad(loss.sum(), head.weight)
    assert slope.shape[0] == 6 and bool((slope[3:].abs().sum((1, 2, 3)) > 0).all())
    request = ask(recipe, steps=5)
    before = recipe.sample(recipe.trained, request, Noise(0, (0,)))
    with torch.no_grad():
        head.bias[3:] += 3  # beta and more
    assert not torch.allclose(recipe.sample(recipe.trained, request, Noise(0, (0,))), before)


@pytest.mark.parametrize(
    "config, clip, said",
    [
        (SMALL, Clip(4, 8, 8), "data.frames=4: pseudo videos are made of images"),
        (SMALL, Clip(1, 8, 16), "images are square"),
        (replace(SMALL, context=4), CLIP, "model.context=4: expected at least 1 and fewer"),
        (replace(SMALL, variance="learned"), CLIP, "set model.frames=1"),
        (SMALL, Clip(1, 9, 9), "need a multiple of 2"),
        (replace(SMALL, steps=0), CLIP, "model.steps=0 is below 1"),
        (replace(SMALL, multipliers=()), CLIP, r"model.multipliers=\[\]: expected 1 or more"),
        (replace(SMALL, heads=3), CLIP, "model.heads=3 do not divide"),
        (
            replace(SMALL, frames=1, steps=1, schedule="cosine", variance="learned"),
            CLIP,
            "between those of two steps",
        ),
        (
            replace(SMALL, frames=8, corruption="noise-equal", betas=(0.5, 0.5)),
            CLIP,
            "which noise-equal needs",
        ),
        (replace(SMALL, steps=20), CLIP, "model.steps=20: betas of schedule=linear would reach 1"),
    ],
)
def test_what_cannot_be_built(config: Config, clip: Clip, said: str) -> None:
    with pytest.raises(UserError, match=said):
        built(config, clip)
