"""Completion, as the shells ask for it."""

import shutil
import subprocess

import pytest

from hvdm.errors import UserError
from launcher.arguments import call
from launcher.completion import SCRIPTS, candidates, completion
from launcher.verbs.table import VERBS


@pytest.mark.parametrize(
    "line, expected",
    [
        ("hvdm tra", ["train"]),
        ("hvdm checkpoint v", ["verify"]),
        ("hvdm train config=tiny/hvdm_au", ["config=tiny/hvdm_autoencoder"]),
        ("hvdm train engine=", ["engine=deepspeed", "engine=local"]),
        ("hvdm train conf", ["config="]),
        ("hvdm train config=x conf", []),
        ("hvdm report --j", ["--json"]),
        ("hvdm evaluate average=r", ["average=raw"]),
        ("hvdm evaluate protocol=rec", ["protocol=reconstruction@1"]),
        ("hvdm evaluate detector=untr", ["detector=untrained"]),
        ("hvdm nonsense x", []),
    ],
)
def test_candidates(line, expected):
    assert candidates(line) == expected


def test_runs_are_offered_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "tiny" / "a" / "config.yaml").write_text("")
    assert candidates("hvdm sample run=ru") == ["run=runs/tiny/a"]


def test_every_verb_can_be_reached():
    for name in VERBS:
        words = name.split()
        line = " ".join(["hvdm", *words[:-1], words[-1][:-1]])
        assert words[-1] in candidates(line)


def test_bash_takes_the_script_and_completes_behind_an_equals_sign(tmp_path):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    fake = "hvdm() { printf 'engine=deepspeed\\nengine=local\\n'; }\n"
    ask = (
        'COMP_LINE="hvdm train engine=lo"; COMP_POINT=${#COMP_LINE}; _hvdm; echo "${COMPREPLY[@]}"'
    )
    script = f"{fake}{SCRIPTS['bash']}{ask}"
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["deepspeed", "local"], done.stderr


def test_an_unknown_shell_is_named(capsys):
    with pytest.raises(UserError, match="did you mean 'fish'"):
        call(completion, ["fishy"])
    assert call(completion, ["zsh"]) == 0
    assert "compdef _hvdm hvdm" in capsys.readouterr().out
