"""The commands: each parses, calls one function, prints.

Exit codes: 0 done, 1 refused (a guarantee, certificate, model or file), 2 a mistake in the call, 3 an error in the user's own
code, 4 an audit that could have refuted nothing, 5 a fault of expunge, 130 interrupted; see `expunge.exits`.
"""

from expunge.cli.application import assembled
from expunge.cli.commands.audits import audit
from expunge.cli.commands.budgets import calibrate, compose
from expunge.cli.commands.certificates import report, verify
from expunge.cli.commands.commitments import open_
from expunge.cli.commands.demos import demo, init
from expunge.cli.commands.runs import plan, unlearn
from expunge.cli.terminal import print_on_any_terminal
from expunge.exits import exit_codes

__all__ = ["app", "main"]

_COMMITMENTS = assembled({"open": open_}, help_="Keyed commitments in certificates.")

# In the order of the help: what a newcomer calls first stands first.
_COMMANDS = {run.__name__: run for run in (demo, init, plan, unlearn, verify, report, audit, calibrate, compose)}
app = assembled(_COMMANDS, {"commitment": _COMMITMENTS}, help_="Certified machine unlearning.")


def main() -> None:
    """Run the command line; errors become messages and exit codes (`expunge.exits`)."""
    print_on_any_terminal()
    with exit_codes() as codes:
        app(obj=codes)
