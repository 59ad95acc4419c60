"""What an opened run is, in ten lines."""

from hvdm.opening import Opened, runs_below
from hvdm.options import told


def of(opened: Opened, device: str) -> str:
    config, recipe = opened.config, opened.recipe
    data = config.data
    coder = recipe.coder
    lines = {
        "run": str(opened.run),
        "step": f"{opened.step}, weights {opened.weights_hash[:12]}",
        "recipe": config.recipe,
        "clips": f"{data.frames} frames of {data.height}x{data.width}",
        "networks": ", ".join(_network(opened, name) for name in opened.nets),
        "averaged": ", ".join(recipe.averaged) or "none",
        "works on": ", ".join(f"{k}={v}" for k, v in runs_below(config).items()) or "no run",
        "latents": "none" if coder is None else " x ".join(map(str, coder.latent_shape)),
        "samples": "; ".join(_kind(opened, name) for name in recipe.samples) or "nothing",
        "device": device,
    }
    return "\n".join(f"{name:<9} {text}" for name, text in lines.items())


def _network(opened: Opened, name: str) -> str:
    count = sum(p.numel() for p in opened.nets[name].parameters())
    return f"{name} ({count:,} parameters)"


def _kind(opened: Opened, name: str) -> str:
    options = [option.name for option in told(opened.recipe.samples[name].options)]
    return f"what={name} {' '.join(f'{one}=' for one in options)}".strip()
