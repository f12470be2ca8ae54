"""Whole jobs that write a folder: one unlearner on one task, an audit, a comparison, the demo."""
