"""The verb around a run: train."""

from launcher import compose
from launcher.arguments import Arguments
from launcher.verbs import training as training


def train(given: Arguments) -> int:
    name = given.need("config", "tiny/hvdm_autoencoder")
    return training.train(compose.run_config(name, given.rest()))
