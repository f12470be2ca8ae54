"""The commands: each parses, calls one function, prints.

Exit codes: 0 done, 1 refused (a guarantee, certificate, model or file), 2 a mistake in the call, 3 an error in the user's own
code, 4 an audit that could have refuted nothing, 5 a fault of expunge, 130 interrupted; see `expunge.exits`.
"""

from expunge.cli.application import Later, assembled
from expunge.cli.terminal import print_on_any_terminal
from expunge.exits import exit_codes

__all__ = ["app", "main"]

_ROOM = "expunge.cli.commands"
_COMMITMENTS = assembled(
    {
        "open": Later(
            f"{_ROOM}.commitments:open_",
            "Check that a certificate's commitment is to exactly these ids or rows. Exit code 1 where it is not.",
        )
    },
    help_="Keyed commitments in certificates.",
)

# In the order of the help: what a newcomer calls first stands first.
_COMMANDS = {
    "demo": Later(
        f"{_ROOM}.demos:demo",
        "Forget a tenth of scikit-learn's digits with every method; certify, verify, compare, report.",
    ),
    "init": Later(f"{_ROOM}.demos:init", "Write a commented task file that runs as it stands. Needs no torch."),
    "plan": Later(
        f"{_ROOM}.runs:plan",
        "Compare the ways to carry out a task's request before anything is run: guarantee, cost, what they read.",
    ),
    "unlearn": Later(
        f"{_ROOM}.runs:unlearn",
        "Unlearn, recover, certify; writes certificate, weights and report into a new folder, keys into OUT.secret.",
    ),
    "verify": Later(
        f"{_ROOM}.certificates:verify", "Prove a certificate again and compare the weights. Needs no torch."
    ),
    "report": Later(
        f"{_ROOM}.certificates:report", "Write one self-contained HTML page of a certificate. Needs no torch."
    ),
    "audit": Later(
        f"{_ROOM}.audits:audit",
        "Attack a certificate: in two worlds, from the null start, by membership, by canaries of one training.",
    ),
    "calibrate": Later(f"{_ROOM}.budgets:calibrate", "The least noise that meets a budget. Needs no torch."),
    "compose": Later(
        f"{_ROOM}.budgets:compose", "What several certificates prove together, and what is left of a budget."
    ),
}
app = assembled(_COMMANDS, {"commitment": _COMMITMENTS}, help_="Certified machine unlearning.")


def main() -> None:
    """Run the command line; errors become messages and exit codes (`expunge.exits`)."""
    print_on_any_terminal()
    with exit_codes() as codes:
        app(obj=codes)
