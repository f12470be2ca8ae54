"""The commands: each parses, calls one function, prints.

Exit codes: 0 done, 1 refused (a guarantee, certificate, model or file), 2 a mistake in the call, 3 an error in the user's own
code, 4 an audit that could have refuted nothing, 5 a fault of expunge, 130 interrupted; see `expunge.exits`.
"""

from expunge.cli.application import assembled
from expunge.cli.terminal import print_on_any_terminal
from expunge.exits import exit_codes

__all__ = ["app", "main"]

_ROOM = "expunge.cli.commands"  # its modules are imported when they are called: nobody waits for another command's
_COMMITMENTS = assembled({"open": f"{_ROOM}.commitments:open_"}, help_="Keyed commitments in certificates.")

# In the order of the help: what a newcomer calls first stands first.
_COMMANDS = {
    "demo": f"{_ROOM}.demos:demo",
    "init": f"{_ROOM}.demos:init",
    "plan": f"{_ROOM}.runs:plan",
    "unlearn": f"{_ROOM}.runs:unlearn",
    "verify": f"{_ROOM}.certificates:verify",
    "report": f"{_ROOM}.certificates:report",
    "audit": f"{_ROOM}.audits:audit",
    "calibrate": f"{_ROOM}.budgets:calibrate",
    "compose": f"{_ROOM}.budgets:compose",
}
app = assembled(_COMMANDS, {"commitment": _COMMITMENTS}, help_="Certified machine unlearning.")


def main() -> None:
    """Run the command line; errors become messages and exit codes (`expunge.exits`)."""
    print_on_any_terminal()
    with exit_codes() as codes:
        app(obj=codes)
