"""The plot of docs/pseudo_video.md: `python -m benchmarks.last_frame_theorem`."""

from collections.abc import Sequence
from pathlib import Path

from hvdm.disk import atomic_write
from hvdm.recipes.pseudo_video.frames import Ladder, betas_of, least_error

OUT = Path("docs/images/last_frame_theorem.svg")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 300, 70, 150, 20, 50
FRAMES, BETAS = 8, (0.1, 0.5)
COLOURS = {"first order": "#888888", "higher order": "#c2410c"}


def curves() -> dict[str, list[float]]:
    """Least errors for 1, 2, … frames told, as shares of that for one."""
    betas = betas_of(Ladder(FRAMES, "noise", betas=BETAS))
    found = {}
    for name in COLOURS:
        errors = [least_error(betas, name == "higher order", told) for told in range(1, FRAMES)]
        found[name] = [error / errors[0] for error in errors]
    return found


def drawn(found: dict[str, list[float]]) -> str:
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(told: int) -> float:
        return LEFT + wide * (told - 1) / (FRAMES - 2)

    def y(share: float) -> float:
        return TOP + tall * (1 - share / 1.1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<path d="M{LEFT} {y(share):.1f}h{wide}" stroke="#ddd"/>'
            f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:g}</text>'
        )
    for told in range(1, FRAMES):
        parts.append(
            f'<text x="{x(told):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{told}</text>'
        )
    for name, shares in found.items():
        parts += _line([(x(told), y(share)) for told, share in enumerate(shares, 1)], name)
    middle = LEFT + wide / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">frames told</text>'
        f'<text transform="translate(18 {TOP + tall / 2}) rotate(-90)" text-anchor="middle">'
        "least error, of that with one</text></svg>"
    )
    return "\n".join(parts) + "\n"


def _line(points: Sequence[tuple[float, float]], name: str) -> list[str]:
    colour, (right, low) = COLOURS[name], points[-1]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        f'<g fill="{colour}">{dots}<text x="{right + 10}" y="{low + 4:.1f}">{name}</text></g>',
    ]


def main() -> None:
    found = curves()
    atomic_write(OUT, drawn(found))
    for name, shares in found.items():
        print(name, *(f"{share:.3f}" for share in shares))


if __name__ == "__main__":
    main()
