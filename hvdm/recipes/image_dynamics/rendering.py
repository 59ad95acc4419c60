"""A picture and its motion -> frames: by a renderer's networks, or its own pixels thrown."""

from typing import Protocol

import torch
from torch import Tensor

from hvdm.errors import UserError
from hvdm.ops.splat import filled, front, splat
from hvdm.recipe import AnotherRun, Clip, Noise
from hvdm.recipes.image_dynamics.renderer import Renderer


class Rendering(Protocol):
    def film(self, picture: Tensor, motion: Tensor, whole: Tensor, noise: Noise) -> Tensor:
        """`B 3 H W` in [-1, 1], `B T 2 H W` in pixels -> `B 3 T H W`.

        `whole` is the motion of which these are moments: it says what is in front.
        """
        ...


class Thrown:
    """Softmax splatting of the pixels, holes filled from around."""

    def film(self, picture: Tensor, motion: Tensor, whole: Tensor, noise: Noise) -> Tensor:
        logits = front(whole)
        frames = [filled(splat(picture, flow, logits)) for flow in motion.unbind(1)]
        return torch.stack(frames, 2)


def rendering_of(run: AnotherRun | None, clip: Clip) -> Rendering:
    if run is None:
        return Thrown()
    recipe = run.recipe
    if not isinstance(recipe, Renderer):
        raise UserError(
            f"renderer={run.reference} is no renderer: name a run of image_dynamics.renderer"
        )
    if (recipe.clip.height, recipe.clip.width) != (clip.height, clip.width):
        raise UserError(
            f"renderer={run.reference} draws {recipe.clip.height}x{recipe.clip.width}, and this "
            f"run moves {clip.height}x{clip.width}; name one of that size"
        )
    return recipe
