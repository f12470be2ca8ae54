"""Whole jobs that write a folder: one lane on one task, an audit, or the demo."""

from expunge.session.audits import Asked, Tested, run_audit
from expunge.session.demos import run_demo
from expunge.session.heads import load_head, run_head
from expunge.session.lanes import run_lane
from expunge.session.networks import run_task
from expunge.session.replays import open_trace, run_replay

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
