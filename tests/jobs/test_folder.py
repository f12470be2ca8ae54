"""What may be published appears in one folder, what is secret beside it, keys apart from state; both or neither."""

from pathlib import Path

import pytest

from expunge.errors import OutputError
from expunge.jobs.folder import keys_in, secret_of, state_in, working_folder


def job(out: Path, *, resume: bool = False, word: str = "one") -> None:
    with working_folder(out, resume=resume) as work:
        (keys_in(work) / "some.key").write_text(word)
        (state_in(work) / "some.state").write_text(word)
        (work / "certificate.json").write_text(word)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_public_folder_holds_nothing_secret_and_the_secret_one_is_its_owners_alone(tmp_path: Path):
    job(tmp_path / "out")
    assert names(tmp_path) == {"out/certificate.json", "out.secret/keys/some.key", "out.secret/state/some.state"}
    for folder in (secret_of(tmp_path / "out"), *(p for p in (tmp_path / "out.secret").rglob("*") if p.is_dir())):
        assert folder.stat().st_mode & 0o077 == 0


def test_keys_of_an_earlier_release_are_never_overwritten(tmp_path: Path):
    """The public folder was moved away, to be published; its keys are still needed."""
    job(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "published")
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"out\.secret exists already and is not overwritten: it holds keys"):
            job(tmp_path / "out", resume=resume, word="two")
    assert (tmp_path / "out.secret" / "keys" / "some.key").read_text() == "one"
    assert not (tmp_path / "out").exists()


def test_a_job_cut_off_between_the_two_folders_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if self.name == "out.partial":
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            job(tmp_path / "out")
    assert names(tmp_path) == {
        "out.partial/certificate.json",
        "out.secret/keys/some.key",
        "out.secret/state/some.state",
    }
    with pytest.raises(OutputError, match="go on with --resume"):
        job(tmp_path / "out", word="two")
    job(tmp_path / "out", resume=True, word="two")
    assert names(tmp_path) == {"out/certificate.json", "out.secret/keys/some.key", "out.secret/state/some.state"}
    assert (tmp_path / "out.secret" / "keys" / "some.key").read_text() == "two"


def test_a_job_that_fails_leaves_no_key(tmp_path: Path):
    with pytest.raises(TypeError):
        job(tmp_path / "out", word=7)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
