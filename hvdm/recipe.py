"""What a family hands to the loop: networks, phases with their losses, and how to sample.

Shape letters, here and everywhere: B C T H W; N tokens, K codes or frequencies, R rays, D features.
Inside a model, video is float `B C T H W` in [-1, 1]; a reader hands over `uint8 B T H W C`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NewType, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hvdm import rng
from hvdm.errors import UserError, closest
from hvdm.options import told

Logs = Mapping[str, Tensor]
"""Named values, one per sample; the loop averages them over the global batch."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch. Rows of weight 0 pad the last one, so that all ranks run equally many."""

    fields: Mapping[str, Tensor]
    keys: tuple[str, ...]
    draws: tuple[int, ...]
    weight: Tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def pixels(self, name: str = "video") -> Tensor:
        """Colours as models take them, float `B C T H W` in [-1, 1]."""
        value = self.fields[name]
        return value if value.is_floating_point() else to_model(value)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """Moves the rows; floating fields take the run's dtype, uint8 video stays as it is."""

        def move(value: Tensor) -> Tensor:
            if value.is_complex():
                return value.to(device, dtype.to_complex(), non_blocking=True)
            return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)

        fields = {name: move(value) for name, value in self.fields.items()}
        return Batch(fields, self.keys, self.draws, move(self.weight))


def as_batch(video_bcthw: Tensor) -> Batch:
    """Videos that are float already, as rows that were read: for a coder."""
    rows = len(video_bcthw)
    weight = torch.ones(rows, device=video_bcthw.device)
    return Batch({"video": video_bcthw}, ("",) * rows, (0,) * rows, weight)


def to_model(video_bthwc: Tensor) -> Tensor:
    """uint8 `B T H W C` -> float `B C T H W` in [-1, 1]."""
    return video_bthwc.permute(0, 4, 1, 2, 3).to(torch.get_default_dtype()) / 127.5 - 1


def to_pixels(video_bcthw: Tensor) -> Tensor:
    """Float `B C T H W` in [-1, 1] -> uint8 `B T H W C`, rounded."""
    pixels = ((video_bcthw.float() + 1) * 127.5).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


@dataclass(frozen=True)
class Noise:
    """Random numbers of a batch: row i depends on the seed and on draw i, and on nothing else."""

    seed: int
    draws: tuple[int, ...]
    scope: str = "sample"
    device: torch.device | str = "cpu"

    def _rows(self, use: str, draw_row: Callable[[torch.Generator], Tensor]) -> Tensor:
        rows = [draw_row(rng.generator(self.seed, draw, self.scope, use)) for draw in self.draws]
        return torch.stack(rows).to(self.device)

    def randn(self, shape: tuple[int, ...], use: str) -> Tensor:
        return self._rows(use, lambda g: torch.randn(shape, generator=g, dtype=torch.float32)).to(
            torch.get_default_dtype()
        )

    def uniform(self, shape: tuple[int, ...], use: str) -> Tensor:
        return self._rows(use, lambda g: torch.rand(shape, generator=g, dtype=torch.float32)).to(
            torch.get_default_dtype()
        )

    def randint(self, high: int, use: str) -> Tensor:
        """One integer below `high` for each row."""
        return self._rows(use, lambda g: torch.randint(high, (), generator=g))


@dataclass(frozen=True)
class Context(Noise):
    """What a loss may know besides its rows: the step, and noise that no rank can change."""

    step: int = 0

    def keep(self, shape: tuple[int, ...], share: float, use: str) -> Tensor:
        """Dropout's factors for each row: 1 / share with this probability, else 0.

        Of the draw and the use alone, hence the same where activations are computed again.
        """
        return (self.uniform(shape, use) < share) / share


Sums = Mapping[str, Tensor]
"""Named float64 sums over rows times `batch.weight`; the loop adds them over the global batch."""

Loss = Callable[[Batch, Context], tuple[Tensor, Logs] | tuple[Tensor, Logs, Sums]]


def always(step: int) -> bool:
    return True


@dataclass(frozen=True)
class Phase:
    """One optimizer step in a training step: the network that moves, its loss, its steps.

    The loss gives one value per sample, shape `B`, and calls the raw modules in `recipe.trained`.
    `part` are prefixes of the names that move, where the rest of the network keeps still for the
    whole run. `after` gets the loss's sums once a step, after the update, on all ranks alike; what
    it moves are buffers.
    """

    net: str
    loss: Loss
    when: Callable[[int], bool] = always
    part: tuple[str, ...] | None = None
    after: Callable[[Sums], None] | None = None


@dataclass(frozen=True)
class Clip:
    """The shape of what a recipe models, fixed by the run."""

    frames: int
    height: int
    width: int
    channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.channels, self.frames, self.height, self.width)


@dataclass(frozen=True)
class Given:
    """What a recipe is built from besides its own config.

    `stages` are the frozen recipes of the runs below, by the names that its module declares;
    `shapes` are those of the fields that it reads, a row each, as far as they are known before.
    `from_data` is what its module's function of that name found in the data set when the run began.
    """

    clip: Clip
    stages: "Mapping[str, Recipe]" = field(default_factory=dict)
    from_data: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


Picture = NewType("Picture", Tensor)
"""An option that is typed as a file and comes as pixels of the run's size, uint8 `H W 3`."""


def read_picture(key: str, value: Any) -> Tensor | None:
    pixels = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    good = isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 3
    if pixels is not None and not good:
        raise UserError(f"{key}: expected pixels, uint8 H W 3")
    return pixels


@dataclass(frozen=True)
class AnotherRun:
    """An option that is typed as RUN[@STEP]; when it comes to sampling, its recipe is there.

    Recipes hold their networks, so what asks for samples carries the name alone.
    """

    reference: str
    recipe: "Recipe | None" = None

    @classmethod
    def read(cls, key: str, value: object) -> "AnotherRun":
        return value if isinstance(value, AnotherRun) else cls(str(value))


@dataclass(frozen=True)
class NoOptions:
    """Of a kind of sample that is always the same."""


@dataclass(frozen=True)
class SampleKind:
    """Something that a recipe samples.

    `options` is a dataclass of `hvdm.options.option` fields; `medium` says what comes, and how it
    is written: film, images, depth, spectrum, mesh or page (hvdm/media/writers.py). `label` says
    which class a draw is asked for, given the options. `reads` names fields of the data that it is
    made of where no options give them: an evaluation hands over rows. `frames` are those of its
    films, where they are not `data.frames`. `steps`: it is drawn in as many steps as the request
    says.
    """

    about: str
    options: type = NoOptions
    medium: str = "film"
    label: Callable[[Any, int], int | None] = lambda options, draw: None
    reads: tuple[str, ...] = ()
    frames: int | None = None
    steps: bool = False


@dataclass(frozen=True)
class SampleRequest:
    """What to sample. `options` is an instance of the kind's, or None for its defaults.

    `progress` is told, as sampling goes on, which share of it is done. `rows` are of the data, one
    for each draw, for a kind that reads some.
    """

    what: str = "clip"
    steps: int | None = None
    options: Any = None
    progress: Callable[[float], None] | None = None
    rows: Batch | None = None


class Coder(Protocol):
    """An autoencoder: what later stages, `hvdm data encode` and `reconstruction@1` call.

    One that encodes more than pictures names the fields in `reads`.
    """

    @property
    def latent_shape(self) -> tuple[int, ...]: ...

    def encode(self, nets: nn.ModuleDict, batch: Batch) -> Tensor:
        """One latent for each row."""
        ...

    def decode(self, nets: nn.ModuleDict, latent: Tensor) -> Mapping[str, Tensor]:
        """The fields that were encoded, as the model sees them."""
        ...


class Recipe(Protocol):
    """A family's stage as data. `trained` get an engine each; `frozen` never move.

    `coder` is None where it does not decode what it encodes; `samples` is empty where it samples
    nothing.
    """

    trained: nn.ModuleDict
    frozen: nn.ModuleDict
    averaged: tuple[str, ...]
    phases: tuple[Phase, ...]
    coder: Coder | None
    samples: Mapping[str, SampleKind]

    def sample(self, nets: nn.ModuleDict, request: SampleRequest, noise: Noise) -> Any:
        """What the kind's medium is made of, row i a function of draw i of the noise.

        film: float `B C T H W`; images: `B C H W`; depth: `B H W`; spectrum: complex `B K 2 H W`;
        mesh: a list of `hvdm.media.mesh.Mesh`; page: a list of HTML.
        """
        ...


def encoded_by(coder: Coder) -> tuple[str, ...]:
    """The fields that it encodes: the video where it says nothing of them."""
    fields: tuple[str, ...] = getattr(coder, "reads", ("video",))
    return fields


def bits_of(recipe: Recipe) -> float | None:
    """Of one sample, for a recipe of codes, which says so; None elsewhere."""
    bits: float | None = getattr(recipe, "bits", None)
    return bits


def group_of(recipe: Recipe) -> int:
    """How many rows of consecutive draws its losses couple: 1 where it says nothing of groups."""
    group: int = getattr(recipe, "group", 1)
    return group


DECLARED = {
    "trained": "The recipe",
    "frozen": "The recipe",
    "averaged": "The recipe",
    "phases": "The recipe",
    "coder": "What it samples, and whether it codes",
    "samples": "What it samples, and whether it codes",
}
"""What every recipe has, and the heading of docs/adding_a_family.md that asks for it."""
OF_MODULE = {"Config": "The module", "build": "The module", "reads": "The fields"}


def check_declared(recipe: Recipe, name: str) -> None:
    """Refuses a recipe that says too little, or trains or averages what it does not have."""
    check_has(recipe, name, DECLARED)
    for what, kind in recipe.samples.items():
        _check_options(kind, f"{name}: what={what}")
    for net in (*recipe.averaged, *(phase.net for phase in recipe.phases)):
        if net not in recipe.trained:
            raise UserError(
                f"{name} has no network {net!r} in `trained`; {closest(net, recipe.trained)}"
            )

    for net in recipe.trained:
        _check_part(recipe, net, name)


def _check_options(kind: SampleKind, where: str) -> None:
    for one in told(kind.options):
        if not one.spelled:
            raise UserError(
                f"{where} has an option {one.name!r} whose type no word spells: say how it is "
                "read, option(…, read=f); see 'What it samples' in docs/adding_a_family.md"
            )


def part_of(recipe: Recipe, net: str) -> tuple[str, ...] | None:
    """Prefixes of the names that move in a network; None where all of it does."""
    return next((phase.part for phase in recipe.phases if phase.net == net), None)


def _check_part(recipe: Recipe, net: str, name: str) -> None:
    parts = {phase.part for phase in recipe.phases if phase.net == net}
    if len(parts) > 1:
        raise UserError(f"{name}: the phases of {net!r} move different parts; name one `part`")
    known = [parameter for parameter, _ in recipe.trained[net].named_parameters()]
    for prefix in part_of(recipe, net) or ():
        if not any(parameter.startswith(prefix) for parameter in known):
            raise UserError(
                f"{name}: no parameter of {net!r} begins with {prefix!r}; {closest(prefix, known)}"
            )


def check_has(thing: object, name: str, wanted: Mapping[str, str]) -> None:
    for attribute, heading in wanted.items():
        if not hasattr(thing, attribute):
            raise UserError(
                f"{name} declares no `{attribute}`: see {heading!r} in docs/adding_a_family.md"
            )
