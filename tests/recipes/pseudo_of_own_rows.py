"""The tokenizer with the error that the equality of ranks has to find: codes of a rank's rows."""

from torch import Tensor

from hvdm.recipe import Batch, Context, Given, Logs, Recipe, Sums
from hvdm.recipes.pseudo_video.tokenizer import Config, TokenizerRecipe, reads

__all__ = ["Config", "build", "reads"]


class OfOwnRows(TokenizerRecipe):
    own: Sums

    def loss(self, batch: Batch, context: Context) -> tuple[Tensor, Logs, Sums]:
        loss, logs, self.own = super().loss(batch, context)
        return loss, logs, self.own

    def after(self, sums: Sums) -> None:
        super().after({**sums, **{name: self.own[name] for name in ("counts", "totals")}})


def build(config: Config, given: Given) -> Recipe:
    return OfOwnRows(config, given.clip)
