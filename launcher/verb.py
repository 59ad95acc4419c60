"""A verb of the command line: what it does, its keys, and examples of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    name: str
    summary: str
    function: str
    keys: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]
    more: str | None = None
    """`module:function` that says what else there is, of what was named."""

    def help(self) -> str:
        width = max(len(key) for key, _ in self.keys)
        lines = [f"hvdm {self.name}: {self.summary}", "", "keys:"]
        lines += [f"  {key:<{width}}  {text}" for key, text in self.keys]
        lines += ["", "examples:", *(f"  hvdm {example}" for example in self.examples)]
        return "\n".join(lines)
