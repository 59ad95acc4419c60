"""Every loss, sampler, encoder and decoder on a GPU that is not there: no tensor stays on the CPU.

Weights and rows are fake CUDA tensors, which have shapes and devices and no values. What a recipe
keeps besides, such as tables, is what it really keeps, and where.
"""

import dataclasses
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hvdm.nets import attention
from hvdm.ops import schedule
from hvdm.recipe import Batch, Clip, Context, Given, Noise, Recipe, as_batch
from hvdm.recipes.hvdm import autoencoder, diffusion, pvdm_autoencoder
from hvdm.recipes.hvdm.requests import KINDS, Sampler
from hvdm.sampling import ask

GPU = torch.device("cuda", 0)
CLIP = Clip(4, 16, 16)
DRAWS = (0, 1)
SMALL: dict[str, Any] = {
    "patch": 4, "width": 8, "depth": 1, "heads": 1, "head_dim": 4, "projection_depth": 1,
    "projection_heads": 1, "projection_head_dim": 4, "projection_hidden": 8,
}  # fmt: skip
LPIPS: dict[str, Any] = {"perceptual": "lpips", "perceptual_weights": ("vgg16", "linear")}
HYBRID = autoencoder.Config(**SMALL, conv_channels=(4,), fusion_depth=1, perceptual="untrained")
PLANES = pvdm_autoencoder.Config(**SMALL, perceptual="untrained", critic_width=4, critic_layers=2)
PLAIN = diffusion.Config(width=8, multipliers=(1,), blocks=1)
LEVELS = dataclasses.replace(PLAIN, multipliers=(1, 2))
TOLD = dataclasses.replace(PLAIN, conditional=0.4, still=0.4, motion="stored")
FOUND = {"past": True, "motion_levels": [0.0, 0.5, 1.0]}


def with_(config: Any, **changes: Any) -> Any:
    return dataclasses.replace(config, **changes)


CONFIGS: dict[str, Any] = {
    "autoencoder": HYBRID,
    "autoencoder, released": with_(HYBRID, variant="released"),
    "autoencoder, triplane": with_(HYBRID, branches="triplane"),
    "autoencoder, wavelet 2d": with_(HYBRID, branches="wavelet", wavelet="2d"),
    "autoencoder, sum, group, lpips": with_(HYBRID, fusion="sum", conv_norm="group", **LPIPS),
    "autoencoder, checkpointing": with_(HYBRID, activation_checkpointing=True),
    "pvdm": PLANES,
    "pvdm, released": with_(PLANES, variant="released"),
    "pvdm, adversarial": with_(PLANES, adversarial=True),
    "pvdm, adversarial, batch norm": with_(PLANES, adversarial=True, critic_norm="batch"),
    "diffusion": LEVELS,
    "diffusion, released, v": with_(PLAIN, variant="released", predicts="v"),
    "diffusion, attention": with_(PLAIN, attention=True, activation_checkpointing=True),
    "diffusion, told": TOLD,
    "diffusion, told, measured, v": with_(TOLD, motion="measured", predicts="v"),
    "diffusion, told, labels": with_(TOLD, labels=5),
    "diffusion, remember": with_(TOLD, remember=8),
    "diffusion of planes": LEVELS,
    "diffusion of planes, told": TOLD,
    "diffusion of planes, released": with_(PLAIN, variant="released"),
}
SAMPLED = [name for name in CONFIGS if name.startswith("diffusion")]
CODERS = [name for name in CONFIGS if name not in SAMPLED]

STOPS: dict[tuple[str, str], tuple[str, str]] = {}
"""Recipe and network: the function whose read of a value ends a loss here, and why it reads."""


# A recipe on the GPU, its rows and its noise: what to adapt when a recipe's interface changes


def built(name: str) -> Recipe:
    config = CONFIGS[name]
    module = {"a": autoencoder, "p": pvdm_autoencoder, "d": diffusion}[name[0]]
    stage = None
    if name in SAMPLED:
        stage = pvdm_autoencoder.build(PLANES, Given(CLIP))
        if "planes" not in name:
            stage = autoencoder.build(HYBRID, Given(CLIP))
    return module.build(config, Given(CLIP, {"first_stage": stage} if stage else {}, FOUND))


def on_gpu(name: str) -> Recipe:
    """As the run does it: weights and buffers move, and nothing else that a recipe has."""
    with unset_fake_temporarily():
        recipe = built(name)
    for nets in (recipe.trained, recipe.frozen):
        for module in nets.modules():
            for key, p in list(module.named_parameters(recurse=False)):
                setattr(module, key, nn.Parameter(fake(p), p.requires_grad))
            for key, b in list(module.named_buffers(recurse=False)):
                module._buffers[key] = fake(b)
    return recipe


def fake(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU)


def rows(recipe: Recipe, latents: bool = False) -> Batch:
    frames = CLIP.frames * (2 if recipe.averaged else 1)  # a diffusion is told the clip before
    fields = {"video": torch.zeros(2, frames, 16, 16, 3, dtype=torch.uint8)}
    if latents:
        fields = {"latent": torch.zeros(2, *recipe.latent_shape)}
    numbers = {"motion": torch.zeros(2), "label": torch.zeros(2, dtype=torch.int64)}
    return Batch({**fields, **numbers}, ("a", "b"), DRAWS, torch.ones(2)).to(GPU, torch.float32)


def losses(recipe: Recipe, net: str, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    (phase,) = (phase for phase in recipe.phases if phase.net == net)
    return phase.loss(batch, Context(0, DRAWS, "phase0", GPU))


def sampled(recipe: Recipe, what: str, options: Mapping[str, Any], steps: int = 1) -> Tensor:
    request = ask(recipe, what, steps, options)
    return recipe.sample(recipe.trained, request, Noise(0, DRAWS, device=GPU))


# What stands in for the GPU


class OneDevice(TorchDispatchMode):
    """Every operation but a copy takes tensors of one device; fake ones let a table on the CPU be
    read at places that are on the GPU, which a real one refuses."""

    COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim]
        devices = {str(x.device) for x in leaves}
        assert func in self.COPIES or len(devices) < 2, f"{func} of {sorted(devices)}"
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # xformers asks the GPU what it can do; torch's attention is what runs where it has no operator
    monkeypatch.setattr(attention, "_operator", lambda *given: None)
    with FakeTensorMode(allow_non_fake_inputs=True), OneDevice():
        yield


def check(values: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
    for name, value in values.items():
        assert (name, value.device, tuple(value.shape)) == (name, GPU, shape)


# The tests


@pytest.mark.parametrize("name", CONFIGS)
def test_losses(name: str) -> None:
    recipe = on_gpu(name)
    for net in recipe.trained:
        if (name, net) in STOPS:
            with pytest.raises((DataDependentOutputException, RuntimeError)) as caught:
                losses(recipe, net, rows(recipe))
            assert innermost(caught.value) == STOPS[name, net][0], caught.value
        else:
            total, logs = losses(recipe, net, rows(recipe))
            check({"loss": total, **logs}, (2,))


def innermost(error: BaseException) -> str:
    """The function of ours in which it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in frames if "/hvdm/" in frame.filename][-1]


@pytest.mark.parametrize("name", ["diffusion, told", "diffusion of planes, told"])
def test_a_loss_of_latents(name: str) -> None:
    recipe = on_gpu(name)
    total, logs = losses(recipe, "denoiser", rows(recipe, latents=True))
    check({"loss": total, **logs}, (2,))


@pytest.mark.parametrize("name", CODERS)
def test_encoders_and_decoders(name: str) -> None:
    recipe = on_gpu(name)
    video = rows(recipe).pixels("video")
    latent = recipe.coder.encode(recipe.trained, as_batch(video))
    check({"latent": latent}, (2, *recipe.coder.latent_shape))
    check(recipe.coder.decode(recipe.trained, latent), (2, *CLIP.shape))


PICTURE = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
ASKED: dict[str, dict[str, Any]] = {
    "clip": {"eta": 0.0},
    "long": {"frames": 7, "guidance": 1.0},
    "image": {"image": PICTURE, "motion": "slow"},
    "dynamics": {"motion": "slow,fast", "guidance": 2.0},
}


def asked() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in SAMPLED:
        for what in KINDS if name in ("diffusion, told", "diffusion of planes, told") else ["clip"]:
            yield name, what, ASKED[what]
    for sampler in get_args(Sampler):
        yield "diffusion, released, v", "clip", {"sampler": sampler}
    yield "diffusion", "clip", {"size": "32x16"}
    yield "diffusion, told", "long", {"frames": 8, "reuse": "pixels", "overlap": 2, "fade": 2}
    yield "diffusion, told", "long", {"frames": 8, "image": PICTURE}
    yield "diffusion, told, labels", "clip", {"label": "0,3"}


def test_every_kind_and_sampler_is_asked_for() -> None:
    assert set(ASKED) == set(KINDS)


@pytest.mark.parametrize("name, what, options", list(asked()))
def test_samplers(name: str, what: str, options: Mapping[str, Any]) -> None:
    height = 32 if "size" in options else 16
    steps = 2 if "sampler" in options else 1  # in the last one nothing is drawn or remembered
    video = sampled(on_gpu(name), what, options, steps)
    check({"video": video}, (2, 3, options.get("frames", 4), height, 16))


# Negative controls


def planted_constant(recipe: Recipe) -> None:
    norm = recipe.trained["denoiser"].norm
    norm.register_forward_hook(lambda module, given, out: out * torch.ones(8, 1, 1, 1))


def planted_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read on the CPU, and the answer moved: only the place of the reading is wrong."""

    def wrong(table: Tensor, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        chosen = table[t].reshape(-1, *[1] * (like.ndim - 1))
        return chosen.sqrt().to(like), (1 - chosen).sqrt().to(like)

    monkeypatch.setattr(schedule, "signal_and_noise", wrong)


@pytest.mark.parametrize("plant", ["constant", "table", "buffer"])
def test_what_stays_on_the_cpu_is_found(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = on_gpu("diffusion, told")
    if plant == "constant":
        planted_constant(recipe)
    elif plant == "table":
        planted_table(monkeypatch)
    else:
        recipe.trained["denoiser"].stem.bias = nn.Parameter(torch.zeros(8))
    for act in (
        lambda: losses(recipe, "denoiser", rows(recipe)),
        lambda: sampled(recipe, "clip", {}),
    ):
        with pytest.raises((AssertionError, RuntimeError), match="cpu"):
            act()
