"""A page on which something can be turned: views by dragging, and a mesh in WebGL.

It needs no network and no other file.
"""

import base64
import io
import json
from importlib.resources import files

import numpy as np
from PIL import Image
from torch import Tensor

from hvdm.media.mesh import Mesh


def turning_page(views: Tensor, columns: int, mesh: Mesh | str) -> str:
    """Views uint8 `N H W 3`, rows of so many from left to right, the first row from below.

    Where there is no mesh, the page says why.
    """
    height, width = views.shape[1:3]
    told = {
        "columns": columns,
        "rows": len(views) // columns,
        "width": width,
        "height": height,
        "sheet": _sheet(views, columns),
        **({"without": mesh} if isinstance(mesh, str) else _mesh(mesh)),
    }
    folder = files("hvdm.media")
    page = folder.joinpath("turning.html").read_text()
    script = folder.joinpath("turning.js").read_text()
    return page.replace("/*script*/", script.replace("/*told*/", json.dumps(told)))


def _sheet(views: Tensor, columns: int) -> str:
    """All views as one picture."""
    rows = views.unflatten(0, (-1, columns))
    sheet = rows.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    data = io.BytesIO()
    Image.fromarray(sheet.numpy()).save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _mesh(mesh: Mesh) -> dict[str, str]:
    colours = mesh.colours
    assert colours is not None
    vertices = mesh.vertices.numpy().astype("<f4")
    centred = vertices - (vertices.max(0) + vertices.min(0)) / 2
    arrays = {
        "vertices": centred / max(1e-6, float(np.abs(centred).max())),
        "normals": _normals(vertices, mesh.faces.numpy()),
        "colours": colours.numpy().astype(np.uint8),
        "faces": mesh.faces.numpy().astype("<u4"),
    }
    return {name: base64.b64encode(a.tobytes()).decode() for name, a in arrays.items()}


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Of each vertex: those of its faces, larger ones counting more."""
    corners = vertices[faces]
    own = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(summed, faces[:, corner], own)
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.asarray(summed / np.maximum(length, 1e-12), "<f4")
