"""The commands: each parses, calls one function, prints.

Exit codes: 0 done, 1 refused (a guarantee, certificate, model or file), 2 a mistake in the call, 3 an error in the user's own
code, 4 an audit that could have refuted nothing, 5 a fault of expunge, 130 interrupted; see `expunge.exits`.
"""

from expunge.cli.application import assembled
from expunge.cli.commands.audits import audit
from expunge.cli.commands.budgets import calibrate
from expunge.cli.commands.certificates import report, verify
from expunge.cli.commands.commitments import commitment
from expunge.cli.commands.demos import demo
from expunge.cli.commands.runs import plan, unlearn
from expunge.exits import exit_codes

__all__ = ["app", "main"]

# In the order of the help: what a newcomer calls first stands first.
app = assembled((demo, plan, unlearn, verify, report, audit, calibrate), groups={"commitment": commitment})


def main() -> None:
    """Run the command line; errors become messages and exit codes (`expunge.exits`)."""
    with exit_codes():
        app()
