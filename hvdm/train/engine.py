"""What moves one network: gradients summed over all ranks, a norm before the step, the step."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from hvdm import dist
from hvdm.config import EngineConfig, OptimizerConfig
from hvdm.train import optim
from hvdm.train.part import Part, hash_of_rest, moves


@dataclass(frozen=True)
class Slice:
    """A stretch of one parameter's flattened vector: views into the engine's own storage."""

    name: str
    offset: int
    master: Tensor
    state: dict[str, Tensor]

    @property
    def length(self) -> int:
        return self.master.numel()


class Engine(ABC):
    """Losses call `module` itself; an engine is backward, norm, step, and its state as slices."""

    def __init__(
        self, module: nn.Module, config: EngineConfig, optimizer: OptimizerConfig, part: Part = None
    ) -> None:
        self.module = module
        self.config = config
        self.optimizer_config = optimizer
        self.part = part
        self.moving = {n: p for n, p in module.named_parameters() if moves(part, n)}
        module.requires_grad_(False)
        self.requires_grad(True)
        dist.share(p.data for p in module.parameters())
        self.rest = hash_of_rest(module, part)

    def requires_grad(self, wanted: bool) -> None:
        for p in self.moving.values():
            p.requires_grad_(wanted)

    def autocast(self) -> AbstractContextManager[object]:
        if self.config.precision != "bf16":
            return nullcontext()
        device = next(self.module.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16)

    @abstractmethod
    def backward(self, loss: Tensor, last: bool) -> None:
        """Adds gradients of a micro-batch's share of the loss; the last one sums over the ranks."""

    @abstractmethod
    def grad_norm(self) -> float:
        """Norm of the summed gradient, equal on all ranks; not finite where any entry is not."""

    @abstractmethod
    def step(self, lr: float) -> None:
        """Clips, moves the weights, drops the gradients."""

    @abstractmethod
    def skip(self) -> None:
        """Drops the gradients and leaves weights and optimizer state as they are."""

    @abstractmethod
    def owned(self) -> list[Slice]:
        """What this rank saves; over all ranks, every element exactly once."""

    @abstractmethod
    def held(self) -> list[Slice]:
        """What this rank has to be given on loading."""

    @abstractmethod
    def restored(self, optimizer_steps: int) -> None:
        """Called after the held slices were written: brings the module into line with them."""

    @property
    @abstractmethod
    def optimizer_steps(self) -> int: ...


def torch_slices(
    moving: Mapping[str, nn.Parameter], name: str, optimizer: torch.optim.Optimizer, whole: bool
) -> list[Slice]:
    """Of an engine that keeps whole parameters: all of each, or this rank's even share."""
    return [
        _share(parameter_name, p, optimizer.state[p], optim.STATE[name], whole)
        for parameter_name, p in moving.items()
    ]


def _share(
    name: str, p: nn.Parameter, state: dict[str, Tensor], keys: tuple[str, ...], whole: bool
) -> Slice:
    first, last = (0, 1) if whole else (dist.rank(), dist.rank() + 1)
    parts = 1 if whole else dist.world()
    begin, end = p.numel() * first // parts, p.numel() * last // parts
    views = {key: state[key].view(-1)[begin:end] for key in keys}
    return Slice(name, begin, p.data.view(-1)[begin:end], views)


def norm_of(gradients: list[Tensor]) -> float:
    if not gradients:
        return 0.0
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))


def clip_(gradients: list[Tensor], norm: float, limit: float | None) -> None:
    """Scales to at most the limit, by the rule of torch.nn.utils.clip_grad_norm_."""
    if limit is not None and norm > limit:
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))


class LocalEngine(Engine):
    """Plain torch on one or more ranks, every rank with the whole network.

    Gradients are summed in buckets that are fixed at the start. torch's DDP rebuilds its buckets
    after the first step, and a resumed run then adds in another order than a straight one.
    """

    def __init__(
        self, module: nn.Module, config: EngineConfig, optimizer: OptimizerConfig, part: Part = None
    ) -> None:
        super().__init__(module, config, optimizer, part)
        self._parameters = list(self.moving.values())
        self._optimizer = optim.build(optimizer, self._parameters)
        optim.create_state(optimizer.name, self._optimizer, self._parameters)
        self._buckets = list(_buckets(self._parameters, config.bucket_mb * 2**20))
        self._norm = 0.0

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()
        if last:
            for p in self._parameters:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            for bucket in self._buckets:
                _sum_bucket([p.grad for p in bucket if p.grad is not None])

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._parameters if p.grad is not None]

    def grad_norm(self) -> float:
        self._norm = norm_of(self._gradients())
        return self._norm

    def step(self, lr: float) -> None:
        clip_(self._gradients(), self._norm, self.optimizer_config.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def skip(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def owned(self) -> list[Slice]:
        return torch_slices(self.moving, self.optimizer_config.name, self._optimizer, whole=False)

    def held(self) -> list[Slice]:
        return torch_slices(self.moving, self.optimizer_config.name, self._optimizer, whole=True)

    def restored(self, optimizer_steps: int) -> None:
        optim.set_steps_taken(self._optimizer, optimizer_steps)

    @property
    def optimizer_steps(self) -> int:
        return optim.steps_taken(self._optimizer)


def _buckets(parameters: list[nn.Parameter], limit: int) -> Iterator[list[nn.Parameter]]:
    """In reverse order, as gradients become ready, cut before the limit in bytes is passed."""
    bucket: list[nn.Parameter] = []
    size = 0
    for p in reversed(parameters):
        p_size = p.numel() * p.element_size()
        if bucket and (size + p_size > limit or p.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(p)
        size += p_size
    if bucket:
        yield bucket


def _sum_bucket(gradients: list[Tensor]) -> None:
    if dist.world() == 1:
        return
    flat = dist.all_sum(_flatten_dense_tensors(gradients))
    for gradient, summed in zip(gradients, _unflatten_dense_tensors(flat, gradients)):
        gradient.copy_(summed)
