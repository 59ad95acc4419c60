"""DeepSpeed ZeRO as an engine: the only import of deepspeed.

DeepSpeed takes its optimizer step and its own decision on overflow in one call. Here the decision
is the loop's, so this file reads the gradient norm before the step, and drops gradients without
stepping. Both touch names inside DeepSpeed, hence the check of the version.
"""

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hvdm import dist
from hvdm.config import EngineConfig, OptimizerConfig
from hvdm.disk import locked
from hvdm.errors import RunError, UserError
from hvdm.train import optim
from hvdm.train.engine import Engine, Slice, clip_, norm_of, torch_slices
from hvdm.train.part import Part

SUPPORTED = "0.19."
_INVALID_NORM = -1.0


def prepare(device: torch.device, timeout_s: int, say: Callable[[str], None]) -> None:
    """Brings DeepSpeed up on this device, its compiled operators built and its process group."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed = _import()
    if not dist.is_started():
        dist.start_alone(device, timeout_s)
    with _building(device, say):
        deepspeed.init_distributed(dist_backend=dist.backend_of(device), verbose=False)


def preload() -> None:
    """What a first engine imports, in a process that waits for its work."""
    _import()
    import deepspeed.runtime.engine
    import deepspeed.runtime.zero.stage3
    import deepspeed.runtime.zero.stage_1_and_2  # noqa: F401


def _import() -> Any:
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if not deepspeed.__version__.startswith(SUPPORTED):
        raise UserError(
            f"deepspeed {deepspeed.__version__} is installed; this code reads inside "
            f"{SUPPORTED}x: run `uv sync`, or use engine=local"
        )
    return deepspeed


@contextmanager
def _building(device: torch.device, say: Callable[[str], None]) -> Iterator[None]:
    """One process at a time builds the CPU operator; a lock left by a killed build is cleared.

    torch's own lock is a file that outlives its process, and every later start waits for it
    forever. All our builds happen under a lock that the kernel releases, so a file seen inside
    it belongs to nobody.
    """
    if device.type != "cpu":
        yield
        return
    if shutil.which("c++") is None and shutil.which("g++") is None:
        raise UserError(
            "DeepSpeed needs a C++ compiler for its CPU operator and found neither c++ nor g++: "
            "install one (Debian: apt-get install g++), or use engine=local"
        )
    folder = extensions_folder()
    with locked(folder / "hvdm.lock"):
        for stale in folder.glob("*/lock"):
            stale.unlink()
            say(f"removed {stale}: the lock of a build of DeepSpeed's operator that was killed")
        yield


def extensions_folder() -> Path:
    """A build folder of this environment's own.

    Shared, two environments would each find the other's build out of date, and compile again.
    """
    chosen = os.environ.get("HVDM_EXTENSIONS_DIR")
    cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    mine = hashlib.blake2b(f"{sys.prefix} {torch.__version__}".encode(), digest_size=6).hexdigest()
    folder = Path(chosen) if chosen else Path(cache) / "hvdm" / "torch_extensions" / mine
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write DeepSpeed's operators to {folder}: {error.strerror}; "
            "set HVDM_EXTENSIONS_DIR to a folder that can be written"
        ) from None
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    return folder


def settings(engine: EngineConfig, optimizer: OptimizerConfig, micro_batch: int) -> dict[str, Any]:
    """DeepSpeed's JSON. Gradients travel and add up in fp32 whatever the weights are in."""
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": (optimizer.clip or 0.0) if engine.zero else 0.0,
        "zero_allow_untested_optimizer": True,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "bf16": {"enabled": _low_precision(engine)},
        "zero_optimization": {
            "stage": engine.zero,
            "overlap_comm": False,
            "reduce_bucket_size": engine.bucket_mb * 2**18,
            "allgather_bucket_size": engine.bucket_mb * 2**18,
            # Weights that stay whole are gathered anew after each step, by a collective each, all
            # at once: fast on a GPU, and on a busy CPU gloo spins over it for minutes.
            "stage3_param_persistence_threshold": 10_000 if torch.cuda.is_available() else 0,
        },
        "steps_per_print": 2**62,
    }


def _low_precision(engine: EngineConfig) -> bool:
    """Stage 0 cannot accumulate bf16 gradients in fp32: there the weights stay fp32, and autocast
    alone computes in bf16."""
    return engine.precision == "bf16" and engine.zero > 0


class DeepSpeedEngine(Engine):
    def __init__(
        self,
        module: nn.Module,
        config: EngineConfig,
        optimizer: OptimizerConfig,
        micro_batch: int,
        part: Part = None,
    ) -> None:
        super().__init__(module, config, optimizer, part)
        exact = {n: p.detach().flatten().clone() for n, p in self.moving.items()}
        kept = [(m, n, b) for m in module.modules() for n, b in m.named_buffers(recurse=False)]
        self._names = {id(p): name for name, p in self.moving.items()}
        self._engine, *_ = _import().initialize(
            model=module,
            optimizer=optim.build(optimizer, list(self.moving.values())),
            config=settings(config, optimizer, micro_batch),
        )
        for owner, name, buffer in kept:  # DeepSpeed rounds them with the weights
            setattr(owner, name, buffer)
        self._optimizer = self._engine.optimizer
        self._layout = _layout_of(self._optimizer)
        self._base = getattr(self._optimizer, "optimizer", self._optimizer)
        optim.create_state(optimizer.name, self._base, self._layout.masters(self._engine))
        if _low_precision(config):
            self._refill(exact)
        self._norm = 0.0

    def _refill(self, exact: dict[str, Tensor]) -> None:
        """Masters from the weights as they were drawn, not from their bf16 rounding."""
        for piece in self.held():
            piece.master.copy_(exact[piece.name][piece.offset : piece.offset + piece.length])
        self._layout.push(self._optimizer)

    def backward(self, loss: Tensor, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        if self.config.zero:
            self._optimizer.clear_backward_seen_flag()
        # DeepSpeed averages over the ranks, the loop sums.
        self._engine.backward(loss * dist.world(), scale_wrt_gas=False)
        self._layout.accumulated(self._optimizer)

    def grad_norm(self) -> float:
        self._norm = float(self._layout.norm(self._engine))
        return self._norm if self._norm != _INVALID_NORM else float("nan")

    def step(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        if self.config.zero == 0:
            clip_(_gradients(self.module), self._norm, self.optimizer_config.clip)
        self._engine.step()

    def skip(self) -> None:
        self._layout.drop(self._engine)

    def owned(self) -> list[Slice]:
        return self._slices(whole=False)

    def held(self) -> list[Slice]:
        return self._slices(whole=True)

    def _slices(self, whole: bool) -> list[Slice]:
        keys = optim.STATE[self.optimizer_config.name]
        if self.config.zero == 0:
            return torch_slices(self.moving, self.optimizer_config.name, self._base, whole)
        return [self._slice(place, keys) for place in self._layout.places(self._optimizer)]

    def _slice(self, place: "FlatPlace", keys: tuple[str, ...]) -> Slice:
        flat, parameter, offset, at, length = place
        state = {k: self._base.state[flat][k].view(-1)[at : at + length] for k in keys}
        return Slice(
            self._names[id(parameter)], offset, flat.data.view(-1)[at : at + length], state
        )

    def restored(self, optimizer_steps: int) -> None:
        optim.set_steps_taken(self._base, optimizer_steps)
        self._layout.push(self._optimizer)

    @property
    def optimizer_steps(self) -> int:
        return optim.steps_taken(self._base)


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


FlatPlace = tuple[Tensor, Tensor, int, int, int]
"""Flat master, parameter, offset in the parameter's vector, offset in the master, length."""


class _Replicated:
    """Stage 0: whole parameters, and gradients in `p.grad`."""

    def masters(self, engine: Any) -> list[Tensor]:
        return [p for p in engine.module.parameters() if p.requires_grad]

    def places(self, optimizer: Any) -> Iterator[FlatPlace]:
        return iter(())

    def accumulated(self, optimizer: Any) -> None:
        return None

    def norm(self, engine: Any) -> float:
        return norm_of(_gradients(engine.module))

    def drop(self, engine: Any) -> None:
        engine.zero_grad()

    def push(self, optimizer: Any) -> None:
        return None


class _Partitioned:
    """Stages 1 and 2: each rank one even cut of every flat group."""

    def masters(self, engine: Any) -> list[Tensor]:
        return list(engine.optimizer.single_partition_of_fp32_groups)

    def places(self, optimizer: Any) -> Iterator[FlatPlace]:
        for i, flat in enumerate(optimizer.single_partition_of_fp32_groups):
            yield from _cut(
                flat,
                zip(optimizer.round_robin_bit16_groups[i], optimizer.round_robin_bit16_offsets[i]),
            )

    def accumulated(self, optimizer: Any) -> None:
        return None

    def norm(self, engine: Any) -> float:
        return float(engine.optimizer.scaled_global_norm())

    def drop(self, engine: Any) -> None:
        optimizer = engine.optimizer
        optimizer.micro_step_id = -1
        optimizer.zero_grad(set_to_none=True)
        optimizer._release_preflattened_grad_buffers()
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
            optimizer.all_grad_tensors[group] = None

    def push(self, optimizer: Any) -> None:
        optimizer.update_lp_params()


class _PartitionedBf16:
    """Stage 1 with bf16 weights and fp32 sums, which DeepSpeed gives another optimizer."""

    def masters(self, engine: Any) -> list[Tensor]:
        return list(engine.optimizer.fp32_groups_flat_partition)

    def places(self, optimizer: Any) -> Iterator[FlatPlace]:
        for flat, group in zip(optimizer.fp32_groups_flat_partition, optimizer.bf16_groups):
            yield from _cut(flat, _running(group))

    def accumulated(self, optimizer: Any) -> None:
        """Its fp32 sums have taken in the bf16 gradients, which would be added again."""
        optimizer.clear_lp_grads(set_to_none=True)

    def norm(self, engine: Any) -> float:
        from deepspeed.runtime.utils import get_global_norm_of_tensors

        gradients, _ = engine.optimizer.get_grads_for_norm()
        return float(get_global_norm_of_tensors(input_tensors=gradients, mpu=None, norm_type=2))

    def drop(self, engine: Any) -> None:
        engine.optimizer.clear_hp_grads()
        engine.optimizer.clear_lp_grads(set_to_none=True)

    def push(self, optimizer: Any) -> None:
        optimizer.update_lp_params()


def _running(group: list[Tensor]) -> Iterator[tuple[Tensor, int]]:
    offset = 0
    for parameter in group:
        yield parameter, offset
        offset += parameter.numel()


def _cut(flat: Tensor, placed: Any) -> Iterator[FlatPlace]:
    """The parts of each parameter of a flat group that fall into this rank's partition of it."""
    length = flat.numel()
    begin = dist.rank() * length
    for parameter, start in placed:
        first = max(start, begin)
        last = min(start + parameter.numel(), begin + length)
        if first < last:
            yield flat, parameter, first - start, first - begin, last - first


class _Sharded:
    """Stage 3: each parameter cut evenly over the ranks, the last share padded."""

    def masters(self, engine: Any) -> list[Tensor]:
        return list(engine.optimizer.fp32_partitioned_groups_flat)

    def places(self, optimizer: Any) -> Iterator[FlatPlace]:
        for flat, group in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups):
            at = 0
            for parameter in group:
                share = parameter.partition_numel()
                offset = share * optimizer._get_param_partition_rank(parameter)
                length = min(share, max(0, parameter.ds_numel - offset))
                if length:
                    yield flat, parameter, offset, at, length
                at += share

    def accumulated(self, optimizer: Any) -> None:
        return None

    def norm(self, engine: Any) -> float:
        from deepspeed.runtime.utils import combine_grad_norm_groups

        return float(combine_grad_norm_groups(engine.optimizer._get_norm_groups()))

    def drop(self, engine: Any) -> None:
        optimizer = engine.optimizer
        optimizer._pre_step()
        optimizer._partition_all_parameters()
        optimizer._overflow_clean_up(optimizer.loss_scale)
        self._gather_small(optimizer)

    def push(self, optimizer: Any) -> None:
        optimizer._partition_all_parameters()
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
        for i in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(i)
        self._gather_small(optimizer)

    def _gather_small(self, optimizer: Any) -> None:
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


_LAYOUTS: dict[str, Any] = {
    "DeepSpeedZeroOptimizer": _Partitioned,
    "DeepSpeedZeroOptimizer_Stage3": _Sharded,
    "BF16_Optimizer": _PartitionedBf16,
    "AdamW": _Replicated,
    "SGD": _Replicated,
}


def _layout_of(optimizer: Any) -> Any:
    name = type(optimizer).__name__
    assert name in _LAYOUTS, f"no layout for DeepSpeed's {name}"
    return _LAYOUTS[name]()
