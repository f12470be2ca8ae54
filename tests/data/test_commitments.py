"""Commitments: to names where there are some, to content where there are none; they open to those rows and no others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import expunge as ex
from expunge.certificate.commitments import is_commitment, read_ids, read_key
from expunge.cli.commands import main
from expunge.errors import CommitmentMismatch, StateError

KEY = bytes(range(32))
COINS = torch.Generator().manual_seed(0)
X, Y = torch.randn(12, 5, generator=COINS), torch.randint(3, (12,), generator=COINS)
NAMES = [f"r{i}" for i in range(12)]


def test_the_form_of_version_1_stays() -> None:
    """Golden: what was committed to ids before opens for ever."""
    assert ex.commit(["a", "b"], key=bytes(32)) == (
        "hmac-sha256:a4a90878bc472c8082d9fe005ace338905d82c05b18fc5e6beaf7017e351b12f"
    )


def test_named_rows_are_their_ids() -> None:
    held = ex.commit(ex.Examples(X, Y, ids=NAMES), key=KEY)
    assert held == ex.commit(NAMES, key=KEY) == ex.commit(reversed(NAMES), key=KEY) == ex.commit(set(NAMES), key=KEY)
    ex.open_commitment(held, NAMES, key=KEY)
    for others in (NAMES[:-1], [*NAMES, "r12"], ex.Examples(X, Y)):
        with pytest.raises(CommitmentMismatch, match="to other rows, or was made under another key"):
            ex.open_commitment(held, others, key=KEY)
    with pytest.raises(CommitmentMismatch):
        ex.open_commitment(held, NAMES, key=bytes(32))


def test_rows_without_names_are_their_content_and_not_their_positions() -> None:
    held = ex.commit(ex.Examples(X, Y), key=KEY)
    assert held != ex.commit(ex.Examples(X + 1, Y), key=KEY), "two forget sets of one size are not one"
    assert held != ex.commit([str(i) for i in range(12)], key=KEY)
    loader = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True)
    order = torch.randperm(12, generator=COINS)
    for same in ((X, Y), loader, list(ex.Examples(X, Y).chunks(3))[:], ex.Examples(X, Y).take(order), (X.double(), Y)):
        ex.open_commitment(held, same, key=KEY)
    for others in ((X, (Y + 1) % 3), (X[:11], Y[:11]), (torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]])), (X,)):
        with pytest.raises(CommitmentMismatch):
            ex.open_commitment(held, others, key=KEY)


def test_where_a_part_ends_is_not_read_from_its_content() -> None:
    """((a, b), c) and (a, (b', c')) whose bytes, joined by a mark, would be the same."""
    a, marked, c = b"AAAAAAA@", b"|BBBBBB@", b"CCCCCCC@"
    joined = a + marked + b"|" + c
    assert joined[8:9] == b"|"

    def number(content: bytes) -> float:
        return float(np.frombuffer(content, "<f8")[0])

    def tensor(*numbers: bytes) -> torch.Tensor:
        return torch.tensor([number(content) for content in numbers], dtype=torch.float64)

    one = (tensor(a, marked)[None], tensor(c))
    other = (tensor(a), tensor(joined[9:17], joined[17:25])[None])
    assert ex.commit(one, key=KEY) != ex.commit(other, key=KEY)


def test_content_is_bound_in_float64() -> None:
    x = X.double()
    assert ex.commit((x, Y), key=KEY) != ex.commit((x + 1e-12, Y), key=KEY)


@pytest.mark.parametrize(
    ("what", "error", "reason"),
    [
        ([], ValueError, "at least one row"),
        (iter(()), ValueError, "at least one row"),
        ("r1", TypeError, "data must be"),
        (["a", "a"], ValueError, "'a' is given twice"),
        ([0.5], TypeError, "cannot be told apart|holds no tensor"),
        (None, TypeError, "data must be"),
        (X.numpy(), TypeError, "data must be"),
        (X.tolist(), TypeError, "rows of numbers must come as"),
        ([[(x, y) for x, y in zip(X, Y, strict=True)]], TypeError, "list of single examples"),
    ],
)
def test_what_holds_no_rows_is_committed_to_by_nobody(what: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        ex.commit(what, key=KEY)


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes, not 5"):
        ex.commit(["a"], key=b"short")
    with pytest.raises(TypeError, match="key must be bytes"):
        ex.commit(["a"], key="k" * 64)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text",
    ["hmac-sha256:", "hmac-sha256:" + "0" * 63, "hmac-sha256:" + "0" * 65, "hmac-sha256:" + "G" * 64, "x", 7, None],
)
def test_other_texts_are_no_commitments(text: Any) -> None:
    assert not is_commitment(text)
    with pytest.raises(CommitmentMismatch, match="no commitment"):
        ex.open_commitment(text, ["a"], key=KEY)


def test_ids_are_read_from_lines_or_json(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("r1\nr2 with spaces\n")
    (tmp_path / "ids.json").write_text(json.dumps(["r1", "r2\nof two lines"]))
    assert read_ids(tmp_path / "ids.txt") == ["r1", "r2 with spaces"]
    assert read_ids(tmp_path / "ids.json") == ["r1", "r2\nof two lines"]
    (tmp_path / "other.json").write_text('{"a": 1}')
    for bad, reason in (("other.json", "holds no list of ids"), ("missing.txt", "missing.txt: No such file")):
        with pytest.raises(StateError, match=reason):
            read_ids(tmp_path / bad)


def test_a_key_file_is_whole(tmp_path: Path) -> None:
    key = ex.new_commitment_key(tmp_path / "key")
    assert read_key(tmp_path / "key") == key
    (tmp_path / "half").write_text("00ff")
    with pytest.raises(StateError, match="holds 2 bytes"):
        read_key(tmp_path / "half")
    with pytest.raises(StateError, match=r"cannot read the key .*missing: No such file"):
        read_key(tmp_path / "missing")
    (tmp_path / "ids").write_text("patient-001")
    with pytest.raises(StateError, match="no key in hexadecimal digits"):
        read_key(tmp_path / "ids")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate whose commitment is to r0 to r11, its key, and files of ids."""
    monkeypatch.chdir(tmp_path)
    key = ex.new_commitment_key("commitment.key")
    done = ex.retrain(
        lambda: torch.nn.Linear(5, 3), (X[:6], Y[:6]), forget=(X[6:], Y[6:]), epochs=1,
        loss=lambda m, b: torch.nn.functional.cross_entropy(m(b[0]), b[1]),
    )  # fmt: skip
    forget = {"forget": ex.commit(NAMES, key=key)}
    ex.issue(done.record, released=done.model, commitments=forget).save("certificate.json")
    Path("ids.txt").write_text("\n".join(NAMES))
    Path("fewer.txt").write_text("\n".join(NAMES[1:]))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--key", "commitment.key", "--ids", "ids.txt"), 0, "is to exactly these rows"),
        (("--key", "commitment.key", "--ids", "fewer.txt"), 1, "does not open"),
        (("--key", "ids.txt", "--ids", "ids.txt"), 1, "holds no key"),
        (
            ("--key", "commitment.key", "--ids", "none.txt"),
            2,
            "path 'none.txt' does not exist",
        ),
        (("--key", "commitment.key"), 2, "either --ids"),
        (("--key", "commitment.key", "--ids", "ids.txt", "--task", "a:b"), 2, "either --ids"),
        (("--key", "commitment.key", "--ids", "ids.txt", "--name", "retain"), 2, "holds 'forget'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_command_says_by_its_exit_code_whether_a_commitment_opens(
    words: tuple[str, ...], code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["expunge", "commitment", "open", "certificate.json", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code or 0) == code
    assert told in " ".join((out + err).split())
