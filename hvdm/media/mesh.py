"""Meshes: glTF 2.0 in one file (.glb), and a picture of one."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from hvdm.disk import atomic_write
from hvdm.errors import UserError

FLOAT, UINT32, UINT8 = 5126, 5125, 5121
VERTICES, INDICES = 34962, 34963
VIEW = np.array([[0.8, 0.0, -0.6], [-0.3, 0.866, -0.4], [0.52, 0.5, 0.693]])
"""Rows: right, up, and towards who looks."""
PAPER, GREY = (255, 255, 255), 200


@dataclass(frozen=True)
class Mesh:
    """Triangles: vertices `N 3`, faces `M 3` of their numbers, and uint8 colours `N 3` or none."""

    vertices: Tensor
    faces: Tensor
    colours: Tensor | None = None


def write_glb(mesh: Mesh, path: Path) -> None:
    """Little-endian: a header, a chunk of JSON and one of numbers, each padded to four bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, glb(mesh))


def glb(mesh: Mesh) -> bytes:
    vertices, faces, colours = _arrays(mesh)
    parts: list[tuple[bytes, int]] = [(vertices.tobytes(), VERTICES), (faces.tobytes(), INDICES)]
    accessors: list[dict[str, Any]] = [
        {
            "bufferView": 0,
            "componentType": FLOAT,
            "count": len(vertices),
            "type": "VEC3",
            "min": vertices.min(0).tolist(),
            "max": vertices.max(0).tolist(),
        },
        {"bufferView": 1, "componentType": UINT32, "count": faces.size, "type": "SCALAR"},
    ]
    attributes = {"POSITION": 0}
    if colours is not None:
        parts.append((colours.tobytes(), VERTICES))
        accessors.append(
            {
                "bufferView": 2,
                "componentType": UINT8,
                "normalized": True,
                "count": len(colours),
                "type": "VEC4",
            }
        )
        attributes["COLOR_0"] = 2
    starts = np.cumsum([0, *(len(data) for data, _ in parts)]).tolist()
    scene = {
        "asset": {"version": "2.0", "generator": "hvdm"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 1}]}],
        "accessors": accessors,
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": len(data), "target": target}
            for start, (data, target) in zip(starts, parts, strict=False)
        ],
        "buffers": [{"byteLength": starts[-1]}],
    }
    text = json.dumps(scene, separators=(",", ":")).encode()
    chunks = _chunk(b"JSON", text, b" ") + _chunk(b"BIN\0", b"".join(d for d, _ in parts), b"\0")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _chunk(kind: bytes, data: bytes, padding: bytes) -> bytes:
    data += padding * (-len(data) % 4)
    return struct.pack("<I4s", len(data), kind) + data


def _arrays(mesh: Mesh) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]:
    """As they lie in a file; colours get a fourth value, since rows begin at multiples of four."""
    vertices = mesh.vertices.cpu().numpy().astype("<f4")
    faces = mesh.faces.cpu().numpy().astype("<u4")
    good = vertices.ndim == faces.ndim == 2 and vertices.shape[1] == faces.shape[1] == 3
    if not good or not faces.size or faces.max() >= len(vertices):
        raise UserError(
            f"a mesh has vertices N 3 and faces M 3 of their numbers, got {vertices.shape} and "
            f"{faces.shape}"
        )
    if mesh.colours is None:
        return vertices, faces, None
    colours = np.pad(mesh.colours.cpu().numpy(), ((0, 0), (0, 1)), constant_values=255)
    return vertices, faces, colours


def picture(mesh: Mesh, side: int = 128) -> Tensor:
    """uint8 `side side 3`: seen from above at the right, near triangles over far ones."""
    vertices, faces, colours = _arrays(mesh)
    seen = (vertices - vertices.mean(0)) @ VIEW.T
    reach = max(float(np.abs(seen[:, :2]).max()), 1e-12)
    places = (seen[:, :2] * (1, -1) / reach * 0.9 + 1) * side / 2
    sheet = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(sheet)
    corners = seen[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    light = np.abs(normals[:, 2]) / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    for number in np.argsort(corners[:, :, 2].mean(1)):
        face = faces[number]
        own = np.full(3, GREY) if colours is None else colours[face, :3].mean(0)
        shade = (own * (0.35 + 0.65 * light[number])).astype(int).tolist()
        draw.polygon([tuple(places[corner]) for corner in face], fill=tuple(shade))
    return torch.from_numpy(np.array(sheet))
