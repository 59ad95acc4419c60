"""Stage B: frequencies denoised together (arXiv 2309.07906, section 4.2, figure 3).

Attention across frequencies stands behind every block of stage A, and trains alone; at first it
adds nothing, so that the model begins as stage A.
"""

from dataclasses import replace

from torch import nn

from hvdm.errors import UserError
from hvdm.recipe import Given, Phase, Recipe
from hvdm.recipes.image_dynamics.diffusion import Config, MotionDiffusion, check, reads

__all__ = ["Config", "reads"]
stages = ("diffusion",)
PART = "unet.across."


def build(config: Config, given: Given) -> Recipe:
    """`config` has to be stage A's; how it samples may differ."""
    below = given.stages["diffusion"]
    if not isinstance(below, MotionDiffusion) or below.whole:
        raise UserError(
            "first_stage is no diffusion of single frequencies: name a run of "
            "image_dynamics.diffusion with model.prediction=slices"
        )
    _check_same(config, below.config)
    check(config, below.below)
    return Coordinated(config, below)


def _check_same(config: Config, below: Config) -> None:
    free = ("sampling_steps", "eta", "guidance", "untold", "slices")
    same = replace(below, **{key: getattr(config, key) for key in free})
    for key in vars(config):
        if getattr(config, key) != getattr(same, key):
            raise UserError(
                f"model.{key}={getattr(config, key)}, and stage A has {getattr(below, key)}: the "
                "networks have to be alike"
            )


class Coordinated(MotionDiffusion):
    """The whole of stage A, frozen, and the attention that trains."""

    coordinated = True

    def __init__(self, config: Config, below: MotionDiffusion) -> None:
        super().__init__(config, below.below)
        net: nn.Module = self.trained["denoiser"]
        frozen = below.trained["denoiser"].state_dict()
        own = {k: v for k, v in net.state_dict().items() if k.startswith(PART)}
        net.load_state_dict({**frozen, **own})
        self.phases = (Phase("denoiser", self.loss, part=(PART,)),)
