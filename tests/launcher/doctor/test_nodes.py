"""What the doctor makes of the answers of a cluster's nodes."""

import os
from pathlib import Path
from typing import Any

import pytest

from hvdm.errors import UserError
from hvdm.run.run import versions
from launcher.arguments import call
from launcher.doctor import nodes
from launcher.doctor.doctor import doctor
from launcher.workers import interfaces, sharing


def node(address: str, **more: Any) -> dict[str, Any]:
    facts = {
        "address": address,
        "versions": versions(),
        "token": f"node-{address}",
        "decoders": [("ok", "av reads")],
        "bytecode": True,
        "clock_off_s": 0.0,
    }
    return {**facts, **more}


def test_equal_nodes_are_well() -> None:
    found = [node("10.0.0.1"), node("10.0.0.2")]
    lines = [*nodes.versions(found), *nodes.clocks(found), *nodes.decoders(found)]
    assert [line.state for line in lines] == ["ok", "ok", "ok"]


@pytest.mark.parametrize(
    "check, harm, told",
    [
        (nodes.versions, {"versions": {**versions(), "torch": "1.0"}}, "10.0.0.2 has torch 1.0"),
        (nodes.versions, {"bytecode": False}, "PYTHONDONTWRITEBYTECODE"),
        (nodes.clocks, {"clock_off_s": 7.5}, "10.0.0.2 by 7.5 s"),
        (nodes.decoders, {"decoders": [("failed", "av: none")]}, "10.0.0.2: av: none"),
    ],
)
def test_the_node_that_differs_is_named(check: Any, harm: dict[str, Any], told: str) -> None:
    lines = check([node("10.0.0.1"), node("10.0.0.2", **harm)])
    (line,) = [line for line in lines if line.state != "ok"]
    assert told in line.text and line.remedy


def test_storage_that_a_node_does_not_share(tmp_path: Path) -> None:
    """One saw nothing; another one saw our file on a copy, and its own did not come back."""
    with sharing.StorageCheck(tmp_path) as shared:
        good = node("10.0.0.1", token=sharing.left(str(shared.folder)))
        blind = node("10.0.0.2", token=sharing.left(str(tmp_path / "elsewhere")))
        assert nodes.storage(shared, [good]).state == "ok"
        line = nodes.storage(shared, [good, blind, node("10.0.0.3")])
    assert line.state == "failed" and line.text.endswith("by 10.0.0.2, 10.0.0.3")
    assert list(tmp_path.iterdir()) == []


def test_a_node_without_an_answer() -> None:
    there = [{"NodeManagerAddress": "10.0.0.9", "NodeManagerHostname": "nine"}]
    (line,) = nodes.answered(there, [None])
    assert line.state == "failed" and "10.0.0.9 (nine)" in line.text


def test_a_cluster_that_is_none() -> None:
    with pytest.raises(UserError, match="existing"):
        call(doctor, ["cluster=inline"])


def test_the_interface_that_carries_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interfaces.carrying("127.0.0.1") == "lo"
    assert interfaces.carrying("192.0.2.250") is None
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "of another test")
    del os.environ["GLOO_SOCKET_IFNAME"]
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "mine")
    interfaces.use("127.0.0.1")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("lo", "mine")
