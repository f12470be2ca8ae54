"""Speed and memory of what `expunge` exists for, each beside a peer or a limit of the same run.

    python -m performance            # all, from the folder benchmarks
    python -m performance noise      # one file

A file holds `rows()`, which measures and returns rows of the table; `GROUPS` names the files.
"""

GROUPS = ("certified", "verifying", "heads", "convex", "trace")
GPU = "gpu"  # beside them, where there is an accelerator
