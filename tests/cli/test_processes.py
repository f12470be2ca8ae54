"""The command line as a process of its own: what cannot be seen from within."""

import os
import subprocess
import sys
from pathlib import Path

CERTIFICATE = Path(__file__).parent.parent / "certificates" / "v1" / "gradient_clipping.json"


def process(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, timeout=120)


def test_a_command_that_needs_no_torch_imports_none(tmp_path: Path):
    """Python's own account of what it imports; torch alone would take seconds."""
    done = process(sys.executable, "-X", "importtime", "-m", "expunge.cli", "verify", str(CERTIFICATE), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.decode().splitlines()}
    assert "expunge" in imported
    assert not imported & {"torch", "sklearn", "matplotlib"}


def test_the_installed_command_takes_a_module_beside_one(tmp_path: Path):
    (tmp_path / "beside.py").write_text("def task(): return 3\n")
    script = Path(sys.executable).with_name("expunge")
    done = process(str(script), "plan", "beside:task", cwd=tmp_path)
    assert done.returncode == 1
    assert b"beside:task must return an expunge.Task, not int" in done.stderr
