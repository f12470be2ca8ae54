"""Small networks and data for the traces, and a second implementation of a traced training to hold them against."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from sklearn.datasets import load_digits
from torch import Tensor, nn

import expunge as ex
from expunge.trace import Rewound, Trace, rewind, train_traced

KEY = bytes(range(32))
SGD = ex.Recipe(optimizer="sgd", learning_rate=0.05, momentum=0.9, weight_decay=5e-4)
ADAMW = ex.Recipe(optimizer="adamw", learning_rate=0.01, weight_decay=0.1)
LIMITED = ex.Recipe(learning_rate=0.05, max_grad_norm=0.3)


def plain_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def full_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def augment(batch: Any, generator: torch.Generator) -> Any:
    return batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator), batch[1]


@dataclass(frozen=True)
class Small:
    """A traced training of digits, and its parts by name."""

    data: ex.Examples
    make_model: Callable[[], nn.Module] = full_model
    loss: Callable[..., Tensor] = loss
    augment: Any = augment
    key: bytes = KEY
    options: dict[str, Any] = field(default_factory=lambda: {
        "epochs": 3, "steps_per_epoch": 12, "recipe": SGD, "smallest_batch": 2, "checkpoints": 3,
    })  # fmt: skip

    def but(self, **changes: Any) -> "Small":
        own = {
            name: value
            for name, value in changes.items()
            if name not in ("data", "make_model", "loss", "augment", "key")
        }
        rest = {name: value for name, value in changes.items() if name not in own}
        return replace(self, **rest, options=self.options | own)

    def without(self, *ids: str) -> ex.Examples:
        return self.data.take([i for i, name in enumerate(self.data.ids) if name not in ids])

    def train(self, folder: Path, data: ex.Examples | None = None) -> Trace:
        code = {"loss": self.loss, "augment": self.augment, "key": self.key}
        return train_traced(self.make_model, data or self.data, folder=folder, **code, **self.options)

    def rewind(self, trace: Trace, ids: list[str], data: ex.Examples | None = None) -> Rewound:
        code = {"make_model": self.make_model, "loss": self.loss, "augment": self.augment}
        return rewind(trace, ids, data or self.data, **code)


@pytest.fixture(scope="session")
def data() -> ex.Examples:
    digits = load_digits()
    x, y = torch.tensor(digits.data[:240] / 16).float(), torch.tensor(digits.target[:240]).long()
    return ex.Examples(x, y, ids=[f"patient {i}" for i in range(240)])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small(data: ex.Examples) -> Small:
    return Small(data)


@pytest.fixture(scope="session")
def recipes() -> dict[str, ex.Recipe]:
    return {"sgd": SGD, "adamw": ADAMW, "limited": LIMITED}


@pytest.fixture(scope="session")
def plain() -> dict[str, Any]:
    """A network without coins, and no augmentation."""
    return {"make_model": plain_model, "augment": None}


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder, by the digest of its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, str]]:
    return content


@pytest.fixture(scope="session")
def same() -> Callable[[nn.Module, nn.Module], bool]:
    def equal(a: nn.Module, b: nn.Module) -> bool:
        one, two = a.state_dict(), b.state_dict()
        return list(one) == list(two) and all(torch.equal(one[k], two[k]) for k in one)

    return equal


def prf(purpose: str, content: bytes = b"", key: bytes = KEY) -> bytes:
    return hmac.new(key, b"expunge.trace/1/" + purpose.encode() + b"\0" + content, "sha256").digest()


def by_cipher(name: str, epoch: int, steps: int) -> tuple[int, bytes]:
    """The step within the epoch, and what the order within a batch follows, as the docs page says."""
    cipher = Cipher(AES256(prf("epoch", epoch.to_bytes(8, "big"))), ECB()).encryptor()
    block = cipher.update(prf("name", name.encode())[:16])
    return int.from_bytes(block[:8], "big") * steps >> 64, block


def by_digest(name: str, epoch: int, steps: int) -> tuple[int, bytes]:
    """The same of a trace of schema expunge.trace/2."""
    digest = prf("use", epoch.to_bytes(8, "big") + name.encode())
    return int.from_bytes(digest[:8], "big") % steps, digest[8:]


def retrained_by_hand(
    data: ex.Examples,
    recipe: ex.Recipe,
    *,
    epochs: int = 3,
    steps: int = 12,
    law: Callable[[str, int, int], tuple[int, bytes]] = by_cipher,
) -> nn.Module:
    """The traced training of `full_model` written anew, with torch's own optimisers and the schedule of the docs page."""

    def seed(purpose: str, step: int) -> int:
        return int.from_bytes(prf(f"coins/{purpose}", step.to_bytes(8, "big"))[:8], "big") // 2

    with torch.random.fork_rng():
        coins = torch.Generator().manual_seed(seed("initialisation", 0))
        torch.manual_seed(int(torch.randint(2**62, (2,), generator=coins)[0]))
        model = full_model()
        parameters = model.parameters()
        if recipe.optimizer == "sgd":
            optimizer: Any = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=recipe.weight_decay)
        else:
            optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=recipe.weight_decay)
        total = epochs * steps
        for step in range(total):
            drawn = [(law(name, step // steps, steps), i) for i, name in enumerate(data.ids)]
            rows = [(place, i) for (slot, place), i in drawn if slot == step % steps]
            if len(rows) < 2:
                continue
            index = torch.tensor([i for _, i in sorted(rows)])
            position, peak = step + 0.5, 0.3 * total
            rising = position < peak
            factor = position / peak if rising else (total - position) / (total - peak)
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * factor
            batch = tuple(t[index] for t in data.tensors)
            batch = augment(batch, torch.Generator().manual_seed(seed("augmentation", step)))
            torch.manual_seed(seed("step", step))
            optimizer.zero_grad()
            loss(model, batch).backward()
            if recipe.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
    return model


@pytest.fixture(scope="session")
def by_hand() -> Callable[..., nn.Module]:
    return retrained_by_hand


@pytest.fixture(scope="session")
def digest_law() -> Callable[[str, int, int], tuple[int, bytes]]:
    return by_digest
