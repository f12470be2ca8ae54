"""What a stranger waits for: start-up of the command line, verifying weights of any size; and a ledger of releases."""

import compileall
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import safetensors.numpy
from numpy import zeros

from expunge.accounting import GradientClipping, OutputPerturbation, compose
from expunge.certificate.digests import weights_digest
from performance.rows import Row, medians

CERTIFICATE = Path(__file__).parents[2] / "tests" / "certificates" / "v1" / "gradient_clipping.json"
COMMAND = [sys.executable, "-c", "from expunge.cli import main; main()"]
RELEASES = 10_000


def started(*arguments: str) -> tuple[float, float]:
    """Seconds and MiB of a process, medians of nine, with compiled modules as an installation has them."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    launch = [sys.executable, "-S", "-c", _LAUNCH, *arguments]
    runs = [
        json.loads(subprocess.run(launch, check=True, capture_output=True, env=environment).stdout) for _ in range(9)
    ]
    return median(seconds for seconds, _ in runs), median(kib / 1024 for _, kib in runs)


# A process counts the memory of the one that started it as its own: hence a small one between.
_LAUNCH = """
import resource, subprocess, sys, time
begun = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print([time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss])
"""


def start_up() -> list[Row]:
    """Of `expunge verify` on a certificate of Gaussian noise, and of the help."""
    found: Any = find_spec("expunge")
    compileall.compile_dir(next(iter(found.submodule_search_locations)), quiet=2)
    alone = started(sys.executable, "-c", "pass")
    verify, helped = started(*COMMAND, "verify", str(CERTIFICATE)), started(*COMMAND, "--help")
    scipy = started(sys.executable, "-c", "import scipy.special")
    return [
        Row(
            work="expunge verify", unit="s", ours=verify[0], peer=scipy[0], peer_is="import scipy.special", limit=alone[0],
            limit_is="Python alone", before="0.64 s", target=0.25,
        ),
        Row(
            work="expunge --help", unit="s", ours=helped[0], peer=scipy[0], peer_is="import scipy.special", limit=alone[0],
            limit_is="Python alone", before="0.60 s", target=0.25,
        ),
        Row(
            work="memory of expunge verify", unit="MiB", ours=verify[1], limit=alone[1], limit_is="Python alone",
            before="88 MiB", target=40.0,
        ),
    ]  # fmt: skip


def weights() -> list[Row]:
    """Digest of a file of 800 MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        safetensors.numpy.save_file({f"layer{k}": zeros(50_000_000, dtype="float32") for k in range(4)}, path)
        reading, alone = (started(sys.executable, "-c", code, str(path))[1] for code in (f"{_IMPORT}{_CALL}", _IMPORT))
        plain = ["sha256sum", str(path)]
        taken = medians({"ours": lambda: weights_digest(path), "peer": lambda: subprocess.run(plain, check=True, stdout=subprocess.DEVNULL)}, turns=3)  # fmt: skip
    return [
        Row(
            work="memory to digest a file of 800 MB", unit="MiB", ours=reading - alone, before="3 x the file", target=32.0,
        ),
        Row(
            work="digest a file of 800 MB", unit="s", ours=taken["ours"], peer=taken["peer"], peer_is="sha256sum", before="2.5 s",
            target=1.1, ratio=True,
        ),
    ]  # fmt: skip


# safetensors brings numpy with it to check a header
_IMPORT = "import sys, numpy; from expunge.certificate.digests import weights_digest\n"
_CALL = "weights_digest(__import__('pathlib').Path(sys.argv[1]))"


def ledger() -> list[Row]:
    """Ten thousand releases together: of one mechanism, and each with a noise of its own."""
    one = GradientClipping(
        init_clip=1.0, grad_clip=1.0, learning_rate=0.01, weight_decay=1.0, steps=50, noise_std=800.0
    )
    equal, different = (
        [one] * RELEASES,
        [OutputPerturbation(init_clip=1.0, noise_std=800.0 + k) for k in range(RELEASES)],
    )
    taken = medians({
        "equal": lambda: compose(equal, delta=1e-5),
        "different": lambda: compose(different, delta=1e-5),
        "sum of equal": lambda: sum(m.mu() ** 2 for m in equal),
        "sum of different": lambda: sum(m.mu() ** 2 for m in different),
    })  # fmt: skip
    ms = {name: 1e3 * seconds for name, seconds in taken.items()}
    return [
        Row(
            work=f"Gaussian ledger, {RELEASES:,} {which} releases", unit="ms", ours=ms[which], peer=ms[f"sum of {which}"],
            peer_is="the sum of their squared mu in Python", before="1,500 ms", target=5.0,
        )
        for which in ("equal", "different")
    ]  # fmt: skip


def rows() -> list[Row]:
    """All of them."""
    return [*start_up(), *weights(), *ledger()]
