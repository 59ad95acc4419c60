"""The renderer of triplanes: space, places on rays, known answers, gradients, memory."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hvdm.ops.cameras import Lens, rays, turned
from hvdm.ops.volume import (
    AXES,
    Rays,
    Seen,
    Spacing,
    aligned_error,
    contract,
    expand,
    finer,
    lookup,
    march,
    non_flatness,
    off_surface,
    ray_weights,
    render,
    stratified,
)

LENS = Lens(2.7, 30.0)
SPACING = Spacing(1.7, 3.7, 54.0)


def points(*shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(*shape, 3, generator=generator, dtype=torch.float64)


# Space


@pytest.mark.parametrize("inner, more", [(1.0, 1.0), (0.5, 2.0), (1.5, 0.5)])
def test_contraction_keeps_the_middle_and_bounds_the_rest(inner: float, more: float) -> None:
    x = points(4000, scale=3.0)
    length = torch.linalg.vector_norm(x, dim=-1)
    y, near = contract(x, inner, more), length <= inner
    assert torch.equal(y[near], x[near]) and bool(near.any())
    assert float(torch.linalg.vector_norm(y, dim=-1).max()) < (1 + more) * inner
    assert torch.allclose(expand(y, inner, more), x)
    way = functional.normalize(points(7), dim=-1)
    below, above = (contract(way * (inner * (1 + s)), inner, more) for s in (-1e-9, 1e-9))
    assert torch.allclose(below, above, atol=1e-8)


def test_only_with_one_more_radius_is_the_contraction_smooth() -> None:
    radii = torch.tensor([1 - 1e-6, 1 + 1e-6], dtype=torch.float64, requires_grad=True)
    x = radii[:, None] * torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    slopes = {}
    for more in (1.0, 2.0):
        (slopes[more],) = torch.autograd.grad(contract(x, 1.0, more)[:, 0].sum(), radii,
                                              retain_graph=True)  # fmt: skip
    assert torch.allclose(slopes[1.0], torch.ones(2).double(), atol=1e-5)
    assert float(slopes[2.0][1] - slopes[2.0][0]) == pytest.approx(1, abs=1e-4)


def test_planes_are_of_three_pairs_of_axes_and_a_step_changes_two() -> None:
    assert len({frozenset(pair) for pair in AXES}) == 3
    planes = torch.zeros(3, 3, 1, 8, 8, dtype=torch.float64)
    for plane in range(3):  # row i of the batch has only plane i
        planes[plane, plane] = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(plane))
    start = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    for axis in range(3):
        moved = start.clone()
        moved[axis] += 0.2
        both = torch.stack([start, moved]).expand(3, 2, 3)
        seen = lookup(planes, both)[..., 0]
        changed = {plane for plane in range(3) if seen[plane, 0] != seen[plane, 1]}
        assert changed == {plane for plane in range(3) if axis in AXES[plane]}


def test_lookup_is_grid_sample_of_each_plane() -> None:
    planes, at = torch.randn(2, 3, 5, 6, 6, dtype=torch.float64), points(2, 40)
    plain = 0
    for plane, axes in enumerate(AXES):
        grid = at[:, None, :, list(axes)]
        plain = plain + functional.grid_sample(
            planes[:, plane], grid, padding_mode="border", align_corners=False
        )
    assert torch.allclose(lookup(planes, at), plain[:, :, 0].mT / 3)


# Places and weights


def test_places_lead_to_depths_and_back() -> None:
    places = torch.linspace(0, 1, 101, dtype=torch.float64)
    depths = SPACING.at(places)
    assert torch.allclose(SPACING.of(depths), places) and bool((depths.diff() > 0).all())
    assert depths[[0, 50, 100]].tolist() == pytest.approx([1.7, 3.7, 54.0])


def test_finer_places_follow_the_weights() -> None:
    weights = torch.zeros(1, 1, 10, dtype=torch.float64)
    weights[..., 6] = 1
    middle = stratified(torch.full((1, 1, 10), 0.5, dtype=torch.float64))
    drawn = stratified(torch.full((1, 1, 200), 0.5, dtype=torch.float64))
    more = finer(middle, weights, drawn)
    assert float(((more > 0.6) & (more < 0.7)).double().mean()) > 0.97
    even = finer(middle, torch.ones_like(weights), drawn)
    assert float((even - drawn).abs().max()) < 0.06


def test_weights_of_a_ray_are_what_it_loses() -> None:
    density = torch.rand(2, 3, 9, dtype=torch.float64) * 4
    depths = SPACING.at(stratified(torch.rand(2, 3, 9, dtype=torch.float64)))
    weights = ray_weights(density, depths, 54.0, torch.ones(2, 3).double())
    lost = 1 - torch.exp(-(density * depths.diff(append=torch.full((2, 3, 1), 54.0))).sum(-1))
    assert torch.allclose(weights.sum(-1), lost)
    assert float(weights.sum(-1).max()) <= 1 + 1e-12  # rounding of a sum of nine


# Known answers


def asked(coarse: int = 256, fine: int = 0, side: int = 3, yaw: float = 0.0) -> Rays:
    angle = torch.tensor([yaw], dtype=torch.float64)
    origins, directions = rays(turned(angle, 0 * angle), LENS, side, side)
    drawn = [torch.full((1, side * side, n), 0.5, dtype=torch.float64) for n in (coarse, fine)]
    return Rays(origins, directions, drawn[0], stratified(drawn[1]))


def solid(inside: Tensor, thick: float = 1e4) -> tuple[Tensor, Tensor]:
    return inside.double() * thick, torch.ones(*inside.shape, 1, dtype=torch.float64)


def test_a_slab_is_where_it_is() -> None:
    seen = render(lambda x: solid((x[..., 2] > 0.2) & (x[..., 2] < 0.3)), asked(), SPACING)
    assert torch.allclose(seen.depth, torch.full_like(seen.depth, 2.9), atol=0.012)
    assert torch.allclose(seen.features, torch.ones_like(seen.features), atol=1e-6)
    target = SPACING.of(torch.full((1, 9), 2.9, dtype=torch.float64))
    assert float(off_surface(seen.weights, seen.places, target, 0.03)) < 1e-6


def test_a_sphere_is_met_where_geometry_says_and_missed_beside_it() -> None:
    at = asked(128, 128, side=15, yaw=0.4)
    seen = render(lambda x: solid(torch.linalg.vector_norm(x, dim=-1) < 0.5), at, SPACING)
    o, d = at.origins[0, 0], at.directions[0]
    b, c = d @ o, o @ o - 0.25
    root = b.square() - d.square().sum(1) * c
    near = (-b - root.clamp_min(0).sqrt()) / d.square().sum(1)
    inside = root > 0.02
    assert 20 < int(inside.sum()) < 150
    step = 2 * 2 / 128  # of the coarse places
    assert float((seen.depth[0] - near)[inside].abs().max()) < step
    assert float(seen.weights.sum(-1)[0][root < -0.02].max()) == 0


def test_a_smeared_density_has_the_depth_and_not_the_surface() -> None:
    """Two slabs of half the weight each, the mean between them where the surface should be."""
    places = stratified(torch.full((1, 4, 50), 0.5, dtype=torch.float64))
    weights = torch.zeros(1, 4, 50, dtype=torch.float64)
    target = places[..., 25]
    sharp = weights.clone()
    sharp[..., 25] = 1
    smeared = weights.clone()
    smeared[..., [15, 35]] = 0.5
    for found, surface in ((sharp, 0.0), (smeared, 2.0)):
        depth = (found * places).sum(-1)
        varied = depth + torch.arange(4).double()
        assert float(aligned_error(varied, target + torch.arange(4).double())) < 1e-20
        assert float(off_surface(found, places, target, 0.03)) == pytest.approx(surface)


def test_the_aligned_error_forgives_scale_and_shift_alone() -> None:
    depth, target = torch.rand(3, 50, dtype=torch.float64), torch.rand(3, 50, dtype=torch.float64)
    error = aligned_error(depth, target)
    assert torch.allclose(aligned_error(3 * depth - 7, target), error)
    assert torch.all(aligned_error(depth.square(), target) != error) and float(error.min()) > 0.01
    both = torch.stack([depth[0], torch.ones(50).double()], 1)
    rest = both @ torch.linalg.lstsq(both, target[0][:, None]).solution - target[0][:, None]
    assert float(rest.square().mean()) == pytest.approx(float(error[0]))


def test_flat_depth_counts_one_bin_and_even_depth_all() -> None:
    even = stratified(torch.full((1, 640), 0.5, dtype=torch.float64))
    maps = torch.cat([torch.full_like(even, 0.3), even, even.round()])
    assert non_flatness(maps).tolist() == pytest.approx([1, 64, 2])


def test_views_do_not_depend_on_each_other_and_no_turn_is_the_input() -> None:
    field = Field()
    alone = field.seen(0.0)
    field.seen(0.3)
    assert torch.equal(field.seen(0.0).features, alone.features)
    assert not torch.equal(field.seen(0.3).features, alone.features)


# Gradients and memory


class Field(nn.Module):
    """A triplane and a small network, as the recipe has them."""

    def __init__(self, side: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.planes = nn.Parameter(torch.randn(1, 3, 4, side, side, dtype=torch.float64))
        self.head = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(lookup(self.planes, contract(x) / 2))
        return functional.softplus(found[..., 0]), found[..., 1:].sigmoid()

    def seen(self, yaw: float, at_once: int = 1 << 16) -> Seen:
        return render(self, asked(8, 6, yaw=yaw), SPACING, at_once)


def gradients(field: Field, seen: Seen) -> list[Tensor]:
    loss = seen.features.square().sum() + seen.depth.sum() + seen.weights.square().sum()
    return list(torch.autograd.grad(loss, list(field.parameters())))


def test_parts_that_are_computed_again_have_equal_gradients() -> None:
    field = Field()
    plain = march(field, SPACING, asked(8, 6, yaw=0.2))
    whole, parts = field.seen(0.2), field.seen(0.2, at_once=3 * 14)
    assert torch.equal(whole.features, plain.features)
    assert torch.allclose(parts.features, plain.features, rtol=1e-12, atol=0)
    expected = gradients(field, plain)
    for a, b, c in zip(expected, gradients(field, whole), gradients(field, parts), strict=True):
        assert torch.equal(a, b) and torch.allclose(a, c, rtol=1e-9, atol=1e-12)


def test_gradients_are_the_slopes() -> None:
    field = Field(side=4)
    at = asked(5, 0, side=2)

    def loss(planes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        def answer(x: Tensor) -> tuple[Tensor, Tensor]:
            found = lookup(planes, contract(x) / 2) @ weight
            return functional.softplus(found[..., 0]), found[..., 1:].sigmoid()

        seen = march(answer, SPACING, at)
        return seen.features, seen.depth

    inputs = (field.planes, field.head.weight.mT.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)
    where = points(1, 6, scale=0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: lookup(field.planes, contract(x) / 2), (where,))
    assert math.isfinite(float(where.detach().sum()))


def test_parts_hold_less() -> None:
    """What is kept for the backward pass are places and sums, and not what points were told."""
    field, at = Field(), asked(32, 32, side=6)

    def held(seen: Callable[[], Seen]) -> int:
        kept: list[int] = []

        def keep(x: Tensor) -> Tensor:
            kept.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            seen()
        return sum(kept)

    whole = held(lambda: march(field, SPACING, at))
    assert held(lambda: render(field, at, SPACING, at_once=64 * 6)) < whole / 10
