"""The verb around a run: train."""

from launcher import compose
from launcher import train as training
from launcher.arguments import Arguments


def train(given: Arguments) -> int:
    name = given.need("config", "tiny/hvdm_autoencoder")
    return training.train(compose.run_config(name, given.rest()))
