"""Tables show all that they hold, however long a name is."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from expunge.cli import tables

ATTACK = "two worlds, a loss that cancels repeated noise: output, threshold"


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    return text


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("attack", [ATTACK, "short"])
def test_an_audit_shows_its_numbers_at_80_columns_beside_the_names_of_its_attacks(
    attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = SimpleNamespace(attack=attack, epsilon=0.1234, null_epsilon=0.0567, ceiling=math.inf, confidence=0.9938)
    found = SimpleNamespace(
        audit=SimpleNamespace(findings=[finding], left_out={}), refuting=[], verdict="The claim stands"
    )
    tables.print_audited(found, Path("audit.json"))
    text = printed(capsys)
    assert all(number in text for number in ("0.123", "0.057", "no limit", "0.9938"))
    names = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert " ".join(names) == attack


def test_the_path_of_a_certificate_leaves_room_for_what_it_proves(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/".join(["a_folder_of_some_length"] * 8) + "/certificate.json"
    tables._print_table(("certificate", "mechanism", "epsilon alone"), [tables._Row((path, "x" * 27, "0.123456"))])
    text = printed(capsys)
    assert "0.123456" in text
    assert "x" * 27 in text
    assert "".join(line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")) == path
