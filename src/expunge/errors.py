"""What `expunge` raises.

    ExpungeError
    ├── BudgetUnreachable          no setting of the mechanism meets the budget
    ├── ModelRefused               the proof cannot cover this model as it is
    ├── NonFinite                  NaN or infinity in a loss, gradient or weight
    ├── RunError                   a run went otherwise than its mechanism says; no certificate can follow
    ├── StateError                 a state file is truncated, altered, or belongs to another run
    ├── TaskError                  a task function returned something else than a Task
    │   └── TaskNotFound           there is no such file, module or function
    ├── OutputError                a file or folder cannot be written, or exists already
    ├── MissingExtra               an optional dependency is not installed
    ├── StillRetained              the retained data hold rows that were to be forgotten
    ├── CommitmentMismatch         a commitment is not to these rows
    ├── NothingTested              an audit could not have refuted the certificate, whatever the mechanism did
    ├── MalformedAudit             an audit file is truncated, altered, or its bounds do not follow from its evidence
    └── CertificateError           a certificate is refused
        ├── MalformedCertificate   truncated, not JSON, a field missing, an unknown schema or mechanism
        ├── ClaimRefused           the fields do not prove what is claimed
        └── WeightsMismatch        the weights are not those the certificate speaks of

A caller's mistake in an argument (a negative radius, an empty retain set) is a `ValueError` or `TypeError` that names
the argument and its value. Nothing returns a bool that can be overlooked.
"""

__all__ = [
    "BudgetUnreachable",
    "CertificateError",
    "ClaimRefused",
    "CommitmentMismatch",
    "ExpungeError",
    "MalformedAudit",
    "MalformedCertificate",
    "MissingExtra",
    "ModelRefused",
    "NonFinite",
    "NothingTested",
    "OutputError",
    "RunError",
    "StateError",
    "StillRetained",
    "TaskError",
    "TaskNotFound",
    "WeightsMismatch",
]


class ExpungeError(Exception):
    """The root of everything `expunge` refuses."""


class BudgetUnreachable(ExpungeError):
    """No setting of the mechanism meets the budget."""


class ModelRefused(ExpungeError):
    """The proof cannot cover this model as it is; the message names the remedy."""


class NonFinite(ExpungeError):
    """NaN or infinity in a loss, gradient or weight."""


class RunError(ExpungeError):
    """A run went otherwise than its mechanism says; no certificate can follow."""


class StateError(ExpungeError):
    """A state file is truncated, altered, or belongs to another run."""


class TaskError(ExpungeError):
    """A task function returned something else than a Task, or cannot be found."""


class TaskNotFound(TaskError):
    """There is no file, module or function of the name by which a task was named."""


class StillRetained(ExpungeError):
    """The retained data hold rows that were to be forgotten; the message names some."""


class CommitmentMismatch(ExpungeError):
    """A commitment is not to these ids or rows, or was made under another key."""


class OutputError(ExpungeError):
    """A file or folder cannot be written, or exists already."""


class MalformedAudit(ExpungeError):
    """An audit file is truncated, altered, or its bounds do not follow from its evidence."""


class NothingTested(ExpungeError):
    """An audit has no finding that could have refuted the certificate: it is no pass."""


class MissingExtra(ExpungeError, ImportError):
    """An optional dependency is not installed; the message says how to install it."""


class CertificateError(ExpungeError):
    """A certificate is refused; the message gives the reason."""


class MalformedCertificate(CertificateError):
    """Truncated, not JSON, a field missing or of the wrong type, an unknown schema or mechanism."""


class ClaimRefused(CertificateError):
    """The fields of the certificate do not prove what it claims."""


class WeightsMismatch(CertificateError):
    """The weights at hand are not those the certificate speaks of."""
