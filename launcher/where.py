"""Where a verb works: this process, Ray on this machine, or a running cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hvdm import config
from hvdm.config import ClusterConfig
from hvdm.errors import UserError
from hvdm.options import gathered, option
from launcher.arguments import overrides


@dataclass(frozen=True, kw_only=True)
class OnCluster:
    """The keys of every verb that can share its work."""

    cluster: Literal["inline", "local", "existing"] | None = option(
        None, "this process; Ray on this machine; a running Ray cluster"
    )
    workers: int | None = option(
        None, "how many processes share the work; 2..8 with cluster.workers=", least=1
    )
    cluster_keys: Mapping[str, str] = gathered(
        "any other key of configs/cluster", "cluster.KEY=VALUE", ("cluster",)
    )

    def where(self, usual: str = "inline", shared: str = "local") -> ClusterConfig:
        """`usual` where nothing is said, `shared` where only how many."""
        from launcher import compose

        keys = overrides(self.cluster_keys)
        keys += [f"cluster.workers={self.workers}"] if self.workers is not None else []
        name = self.cluster or (shared if keys else usual)
        found = config.parse(ClusterConfig, compose.group("cluster", name, keys), "cluster")
        if found.name == "inline" and found.workers != 1:
            raise UserError(f"workers={found.workers} needs cluster=local or existing, not inline")
        return found
