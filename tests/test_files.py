"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from expunge._files import write_new, write_over
from expunge.errors import OutputError
from expunge.jobs.folder import refuse_existing


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device; nothing was written"):
        write_new(tmp_path / "a", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_new(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", lambda _d: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OutputError, match="full"):
        write_over(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_existing_file_is_not_overwritten(tmp_path: Path):
    write_new(tmp_path / "a", b"old")
    with pytest.raises(OutputError, match="exists already"):
        write_new(tmp_path / "a", b"new")


def test_a_link_that_leads_nowhere_is_told_before_the_run(tmp_path: Path):
    """A folder cannot be renamed onto it, and a file would take its place."""
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"):
        write_new(tmp_path / "out", b"new")
    with pytest.raises(OutputError, match="exists already"):
        refuse_existing(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(OutputError, match="none"):
        write_new(tmp_path / "none" / "a", b"x")


def test_a_private_file_is_readable_by_its_owner_alone(tmp_path: Path):
    assert write_new(tmp_path / "a", b"x", private=True).stat().st_mode & 0o777 == 0o600
