"""Process groups of 1, 2 and 3 workers (gloo), each of which runs every scenario; made once by a process of its own.

`python worlds.py MODULE FOLDER SIZE...` imports a module with `SCENARIOS`, name -> function(folder) -> result, and, for two
workers before these, `OF_TWO`; forks the workers of all sizes, and leaves `SIZE-RANK.pt`: name -> result, or "Error: its words". Forked, so that torch is loaded once.
"""

import importlib
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def run_worlds(module: str, folder: Path, sizes: tuple[int, ...]) -> dict[int, list[dict[str, Any]]]:
    """Size -> what each of its workers found, by scenario."""
    import torch

    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, module, str(folder), *map(str, sizes)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return {n: [torch.load(folder / f"{n}-{r}.pt", weights_only=False) for r in range(n)] for n in sizes}


def _work(module: Any, folder: Path, rank: int, size: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{size}"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=600))
    found: dict[str, Any] = {}
    for name, scenario in ((module.OF_TWO if size == 2 else {}) | module.SCENARIOS).items():
        try:
            found[name] = scenario(folder)
        except Exception as error:  # noqa: BLE001  a result like others
            found[name] = f"{type(error).__name__}: {error}"
            if os.environ.get("WORLDS_TRACE"):
                import traceback

                traceback.print_exc()
    torch.save(found, folder / f"{size}-{rank}.pt")
    dist.destroy_process_group()


def _main(module: Any, folder: Path, sizes: list[int]) -> int:
    children: list[int] = []
    for size in sizes:
        for rank in range(size):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    _work(module, folder, rank, size)
                    code = 0
                except BaseException:  # noqa: BLE001  a child must not go on as the parent
                    import traceback

                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        for child in children:
            if os.waitpid(child, 0)[1]:
                return 1
        children.clear()
    return 0


if __name__ == "__main__":
    sys.exit(_main(importlib.import_module(sys.argv[1]), Path(sys.argv[2]), [int(n) for n in sys.argv[3:]]))
