"""The command line."""

from expunge.cli.commands import app, main

__all__ = ["app", "main"]
