"""Whole jobs that write a folder: one lane on one task, an audit, or the demo."""

from expunge.jobs.audits import Asked, Tested, run_audit
from expunge.jobs.demos import run_demo
from expunge.jobs.heads import load_head, run_head
from expunge.jobs.lanes import run_lane
from expunge.jobs.networks import run_task
from expunge.jobs.replays import open_trace, run_replay

__all__ = [
    "Asked",
    "Tested",
    "load_head",
    "open_trace",
    "run_audit",
    "run_demo",
    "run_head",
    "run_lane",
    "run_replay",
    "run_task",
]
