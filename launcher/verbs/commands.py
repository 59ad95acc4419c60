"""The verb around a run: train."""

from launcher.arguments import Arguments
from launcher.progress import timed


def train(given: Arguments) -> int:
    name = given.need("config", "tiny/hvdm_autoencoder")
    background = given.flag("background")
    with timed("reading the config, loading torch, looking at data and first stage"):
        from launcher import compose
        from launcher.verbs import training

        config = compose.run_config(name, given.rest())
        training.preflight(config)
    return training.train(config, background)
