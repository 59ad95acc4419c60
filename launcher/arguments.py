"""Arguments of a verb: `key=value` words and a few flags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hvdm.errors import UserError, closest

FLAGS = ("--json", "--traceback", "--help")


@dataclass
class Arguments:
    """What was typed after the verb. What nobody takes is an error, not silently ignored."""

    words: list[str]
    values: dict[str, str]
    flags: frozenset[str]
    taken: set[str] = field(default_factory=set)

    @property
    def json(self) -> bool:
        return "--json" in self.flags

    def take(self, key: str, default: str | None = None) -> str | None:
        self.taken.add(key)
        return self.values.get(key, default)

    def need(self, key: str, example: str) -> str:
        value = self.take(key)
        if value is None:
            raise UserError(f"{key}= is missing; for example {key}={example}")
        return value

    def integer(self, key: str, default: int | None = None) -> int | None:
        value = self.take(key)
        if value is None:
            return default
        if not value.lstrip("-").isdigit():
            raise UserError(f"{key}={value!r} is no whole number")
        return int(value)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.take(key)
        if value is None:
            return default
        if value.lower() not in ("true", "false"):
            raise UserError(f"{key}={value!r}: expected true or false")
        return value.lower() == "true"

    def rest(self, prefixes: Sequence[str] = ()) -> list[str]:
        """What was not taken, as Hydra overrides; with prefixes, only keys of those groups."""
        left = {k: v for k, v in self.values.items() if k not in self.taken}
        for key in left:
            if prefixes and key.split(".")[0] not in prefixes:
                raise UserError(f"unknown key {key!r}; {closest(key, [*self.taken, *prefixes])}")
        self.taken |= set(left)
        return [f"{key}={value}" for key, value in left.items()]

    def done(self) -> None:
        """Every key was understood."""
        for key in self.values:
            if key not in self.taken:
                raise UserError(f"unknown key {key!r}; {closest(key, self.taken)}")


def parse(typed: Sequence[str]) -> Arguments:
    words, values, flags = [], {}, set()
    for word in typed:
        if word in ("-h", "--help"):
            flags.add("--help")
        elif word.startswith("--"):
            if word not in FLAGS:
                raise UserError(f"unknown flag {word!r}; {closest(word, FLAGS)}")
            flags.add(word)
        elif "=" in word:
            key, _, value = word.partition("=")
            values[key] = value
        else:
            words.append(word)
    return Arguments(words, values, frozenset(flags))


def overrides(values: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]
