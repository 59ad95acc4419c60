"""The README against the tree: what it tells exists, and can be typed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hvdm.errors import UserError
from launcher import arguments, cli, compose
from launcher.verbs.runs import TrainOptions
from launcher.verbs.table import VERBS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
LAYOUT = README.split("## Layout")[1].split("\n## ")[0]
COMMAND = re.compile(r"hvdm ((?:[a-z]+ ?)+(?:[\w.]+=\S+ ?|--\w+ ?|[A-Z] ?)*)")


def commands():
    """What stands in code as `hvdm …`, without prose and comments."""
    code = re.findall(r"```\n?(.*?)```|`([^`\n]+)`", README, flags=re.DOTALL)
    lines = [line for block in code for part in block for line in part.splitlines()]
    found = [COMMAND.search(line.partition("#")[0]) for line in lines]
    return sorted({match[1].strip() for match in found if match and "VERB" not in match[0]})


def test_the_layout_is_the_tree():
    told = set(re.findall(r"^\| `([\w.]+)/` \|", LAYOUT, flags=re.MULTILINE))
    assert told and all((ROOT / name).is_dir() for name in told)
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("no git here: the other half of the comparison is left out")
    tracked = {line.split("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    assert {name for name in tracked if not name.startswith(".")} == told


@pytest.mark.parametrize("line", commands())
def test_its_commands_are_ours(line):
    given = arguments.parse(shlex.split(line))
    verb, rest = cli.find(given)
    assert verb.name in VERBS
    if verb.name == "train" and "config" in rest.values:
        asked = arguments.read(TrainOptions, rest)
        assert compose.run_config(asked.config, arguments.overrides(asked.keys)).run


PAGES = sorted((ROOT / "docs").glob("*.md"))


def typed_on(page):
    """All that begins with hvdm and a verb in the page's code, lines that go on put together."""
    code = re.findall(r"```\w*\n(.*?)```|`([^`\n]+)`", page.read_text(), flags=re.DOTALL)
    lines = [line for block in code for part in block for line in joined(part).splitlines()]
    found = [re.search(r"^(?:\$ )?hvdm ([a-z][^#|&]*)", line.strip()) for line in lines]
    return sorted({match[1].strip(" …") for match in found if match and "[" not in match[1]})


def joined(code):
    return code.replace("\\\n", " ").replace("\\|", "|")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_pages_type_is_known(page):
    """Verbs and keys; what stands for a value, or is left out, is not asked for."""
    for line in typed_on(page):
        verb, rest = cli.find(arguments.parse(shlex.split(line.removeprefix("help "))))
        asked = arguments.options_of(verb.function)
        try:
            arguments.read(asked, rest)
        except UserError as error:
            assert "unknown key" not in str(error) and "no key=value" not in str(error), line


ROOMS = "hvdm|eval|launcher|data_tools|tests|benchmarks"
PLACE = re.compile(rf"`(?:python -m )?((?:{ROOMS})[./][\w./]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_pages_name_of_the_code_is_there(page):
    """Files, modules, and what a module has; FAMILY and the like stand for a reader's own."""
    named = [name for name in PLACE.findall(page.read_text()) if "/FAMILY/" not in name]
    assert [name for name in named if not is_there(name)] == []


def is_there(name):
    path = ROOT / name if "/" in name else ROOT.joinpath(*name.split("."))
    recipe = ROOT.joinpath("hvdm/recipes", *name.split("."))
    modules = [path.parent.with_suffix(".py"), path.parent / "__init__.py"]
    texts = [module.read_text() for module in modules if module.is_file()]
    found = path.exists() or any(each.with_suffix(".py").is_file() for each in (path, recipe))
    return found or any(re.search(rf"\b{path.name}\b", text) for text in texts)


def test_it_has_commands():
    assert {"demo", "doctor"} <= set(commands()) and len(commands()) > 8


def test_its_figures_are_the_bounds_of_the_demo():
    results = README.split("## Results")[1].split("\n## ")[0]
    figures = yaml.safe_load((ROOT / "configs/demo/hvdm.yaml").read_text())["figures"]
    motion = figures["motion"]
    bounds = (
        f"{figures['reconstruction']['least_db']:g} dB more",
        f"at most {figures['distance']['most']:g} times each",
        f"{motion['least']:g} to {motion['most']:g} times",
    )
    for bound in bounds:
        assert bound in results
        results = results.replace(bound, "")
    assert not re.findall(r"\d+\.\d|±|\bmet\b", results), "a figure of one day on one machine"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    told = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE))
    assert {"demo", "test"} <= told
    for target in told:
        assert f"\n{target}:" in makefile


def test_its_links_and_its_picture_are_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), link
    (picture,) = [link for link in links if link.endswith(".png")]
    assert (ROOT / picture).stat().st_size < 300_000


def test_the_first_paragraph_is_short():
    first = README.split("\n\n")[1]
    assert len(first.split(". ")) <= 7 and len(first) < 700


def test_help_names_every_verb_and_every_example_can_be_typed():
    text = cli.overview()
    for name, verb in VERBS.items():
        assert f"  {name} " in text
        assert verb.help().count("hvdm ") > len(verb.examples)
        for example in verb.examples:
            words = shlex.split(example.partition(" >")[0])
            assert cli.find(arguments.parse(words))[0].name == name


def test_help_of_every_verb_is_quick():
    """Neither the command line nor any verb's help imports what the work needs."""
    code = (
        "import sys\nfrom launcher.verbs.table import VERBS\n"
        "assert all(verb.help() for verb in VERBS.values())\n"
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr or done.stdout
