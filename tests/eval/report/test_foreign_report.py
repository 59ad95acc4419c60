"""`hvdm report` on a run folder that a stranger made, or that a full disk left."""

import json

import pytest
import yaml

from hvdm.checkpoint import storage
from launcher.cli import main

EVIL = "<script>steal()</script><img src=x onerror=steal()>"
RESULT = {
    "protocol": "fvd/tf-reference@1", "step": 4, "values": {"fvd": 1.0}, "fingerprint": "ab" * 32,
    "standard_error": {"fvd": 0.1}, "debiased": {}, "null_bias": {}, "counts": {"clips": 16},
    "detector": "untrained", "generated": "samples", "fields": {"a": 1}, "warnings": ["w"],
    "controls": {"shuffled_frames": 1.0, "halves": {"value": 1.0}}, "time": 1.0,
}  # fmt: skip
EVENT = {"event": "started", "step": 0, "time": 1.0, "engine": "local", "workers": 2, "text": "t"}


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "theirs"
    (run / "evaluations").mkdir(parents=True)
    return run


def shown(run):
    assert main(["report", f"run={run}"]) == 0
    page = (run / "report.html").read_text()
    assert EVIL not in page and "<img src=x" not in page and page.count("<script") == 1
    return page


def put(run, result):
    (run / "evaluations" / "a.json").write_text(json.dumps(result))


@pytest.mark.parametrize("key", RESULT)
@pytest.mark.parametrize("evil", [EVIL, {EVIL: EVIL}, [EVIL], None])
def test_no_field_of_a_result_is_html(folder, key, evil):
    put(folder, {**RESULT, key: evil})
    shown(folder)


@pytest.mark.parametrize("key", ["counts", "values", "fields", "standard_error"])
def test_what_is_inside_is_text_too(folder, key):
    put(folder, {**RESULT, key: {"clips": EVIL, "fvd": 1.0 if key == "values" else None, EVIL: 1}})
    shown(folder)


@pytest.mark.parametrize("key", [*EVENT, EVIL])
@pytest.mark.parametrize("evil", [EVIL, {EVIL: EVIL}, [EVIL], 1e300, None])
def test_no_line_of_a_log_is_html_or_a_crash(folder, key, evil):
    for name in ("events", "metrics"):
        (folder / f"{name}.jsonl").write_text(json.dumps({**EVENT, key: evil}) + "\n5\n[]\n{}\n")
    shown(folder)


def test_neither_config_nor_checkpoints_are_html(folder):
    (folder / "config.yaml").write_text(yaml.safe_dump({"recipe": EVIL, EVIL: [EVIL]}))
    place = folder / "checkpoints" / "step-00000004"
    place.mkdir(parents=True)
    manifest = {"format": 1, "step": 4, "world": EVIL, "time": EVIL, "nets": {EVIL: {}},
                "files": {}}  # fmt: skip
    (place / "manifest.json").write_bytes(storage.dumped(manifest))
    assert "&lt;script&gt;" in shown(folder)


def test_one_byte_that_is_no_text_costs_one_line(folder, capsys):
    line = json.dumps({"step": 1, "steps": 2, "net/loss": 1.0}).encode()
    (folder / "metrics.jsonl").write_bytes(line + b"\n\xff\n{" + line + b"\n" + line + b"\n")
    (folder / "events.jsonl").write_bytes(b"\xff\n" + json.dumps(EVENT).encode() + b"\n")
    assert main(["report", f"run={folder}", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["metrics"]["net/loss"]["points"] == 1 and len(facts["events"]) == 1
