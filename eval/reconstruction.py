"""`reconstruction`: how near the decoder comes to what the encoder saw."""

from typing import NamedTuple

import torch

from eval.kinds import Kind, Preview, Summary, preview_of
from eval.metrics import psnr, ssim
from eval.protocol import Protocol
from eval.subject import RECONSTRUCTIONS, Part, Task, block, reconstructs
from hvdm.build import Opened
from hvdm.errors import UserError


class ClipRow(NamedTuple):
    key: str
    psnr: float
    ssim: float
    exact_frames: int


class Rows(NamedTuple):
    number: int
    clips: list[ClipRow]
    preview: Preview | None


def _generated(opened: Opened, protocol: Protocol, steps: int | None) -> str:
    if not reconstructs(opened):
        raise UserError(
            f"protocol={protocol.full_name} needs an autoencoder, and {opened.config.recipe} does "
            "not decode what it encodes; use protocol=fvd/tf-reference@1"
        )
    if steps is not None:
        raise UserError(f"steps={steps}: {protocol.full_name} samples nothing; leave it out")
    return RECONSTRUCTIONS


def measure(task: Task) -> Rows:
    rows: list[ClipRow] = []
    preview = None
    with block(task) as parts:
        for part in parts:
            preview = preview or preview_of(task, part.original, part.generated)
            rows += _rows(part)
    return Rows(task.number, rows, preview)


def _rows(part: Part) -> list[ClipRow]:
    decibels, exact = psnr(part.original, part.generated)
    similar = ssim(part.original, part.generated)
    columns = (decibels.tolist(), similar.tolist(), exact.tolist())
    return [ClipRow(*row) for row in zip(part.keys, *columns, strict=True)]


def summarize(protocol: Protocol, blocks: list[Rows]) -> Summary:
    clips = [row for part in blocks for row in part.clips]
    columns = {
        "psnr": torch.tensor([row.psnr for row in clips], dtype=torch.float64),
        "ssim": torch.tensor([row.ssim for row in clips], dtype=torch.float64),
    }
    return Summary(
        values={name: float(column.mean()) for name, column in columns.items()},
        standard_error={
            name: float(column.std() / len(column) ** 0.5) for name, column in columns.items()
        },
        details={
            "exact_frames": sum(row.exact_frames for row in clips),
            "clips": [row._asdict() for row in clips],
        },
    )


KIND = Kind(_generated, measure, summarize)
