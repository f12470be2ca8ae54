"""What `hidden_state` finds, and what it takes for a model's ordinary parts."""

import array
import collections
import copy
import dataclasses
import decimal
import fractions
import functools
import io
import itertools
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import expunge as ex
from expunge.errors import ModelRefused
from expunge.training.hidden_states import hidden_state
from expunge.training.weights import FlatWeights

BANK = torch.ones(40, 8)


class Memory(nn.Module):
    """A layer, and attributes set past torch's registration."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.__dict__.update(held)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Slotted:
    """Its one attribute is in no `__dict__`, under a mangled name."""

    __slots__ = ("__bank",)

    def __init__(self) -> None:
        self.__bank = BANK


@dataclasses.dataclass
class Settings:
    """An object of a user's."""

    bank: object = None


def generator() -> Any:
    yield BANK


@functools.lru_cache(maxsize=8)
def cached(k: int) -> Tensor:
    return BANK * k


@functools.cache
def cached_without_limit(k: int) -> Tensor:
    return BANK * k


cached(1)
cached_without_limit(1)
PIXELS = list(range(256)) * 20


class Counter:
    """Many of it hold a number each."""

    def __init__(self, value: float) -> None:
        self.value = value


HELD = {
    "private tensor": BANK,
    "unregistered parameter": nn.Parameter(BANK),
    "module": [nn.Linear(2, 2)],
    "deque": collections.deque([BANK]),
    "namespace": types.SimpleNamespace(inner=types.SimpleNamespace(t=BANK)),
    "dataclass": Settings(BANK),
    "slots": Slotted(),
    "numpy": BANK.numpy(),
    "numpy of objects": np.array([BANK, None], dtype=object),
    "nested": {"a": [({"b": (BANK,)},)]},
    "key": {BANK: 1},
    "set": {BANK},
    "frozenset": frozenset([BANK]),
    "ordered": collections.OrderedDict(a=BANK),
    "default": collections.defaultdict(list, a=[BANK]),
    "chained": collections.ChainMap({"a": BANK}),
    "user dict": collections.UserDict(a=BANK),
    "user list": collections.UserList([BANK]),
    "read-only": types.MappingProxyType({"a": BANK}),
    "view": {"a": BANK}.values(),
    "partial": functools.partial(torch.add, BANK),
    "bound method": BANK.add,
    "default argument": lambda bank=BANK: bank,
    "closure": (lambda bank: lambda: bank)(BANK),
    "sparse": BANK.to_sparse(),
    "storage": BANK.untyped_storage(),
    "distribution": torch.distributions.Normal(BANK, 1.0),
    "data set": torch.utils.data.TensorDataset(BANK),
    "optimiser": torch.optim.SGD([nn.Parameter(BANK)]),
    "bytes": BANK.numpy().tobytes(),
    "bytearray": bytearray(5),
    "memoryview": memoryview(b"abc"),
    "array": array.array("f", [1.0]),
    "file in memory": io.BytesIO(b"abc"),
    "iterator": iter([BANK]),
    "generator": generator(),
    "lists of numbers": np.arange(320.0).reshape(40, 8).tolist(),
    "numpy's numbers": list(np.arange(320.0)),
    "complex numbers": [complex(k, k) for k in range(160)],
    "decimals": [decimal.Decimal(k) / 7 for k in range(160)],
    "fractions": [fractions.Fraction(k, 7) for k in range(160)],
    "objects of a number each": [Counter(float(k)) for k in range(160)],
    "whole numbers": PIXELS,
    "numpy's whole numbers": list(np.array(PIXELS, dtype=np.uint8)),
    "whole numbers by position": dict(enumerate(PIXELS)),
    "one large number": int.from_bytes(BANK.numpy().tobytes() * 64, "big"),
    "numbers as text": ", ".join(map(str, range(700_000))),
    "bytes of numpy": np.bytes_(b"abc"),
    "void of numpy": np.void(b"abc"),
    "filled cache": cached,
    "filled cache without a limit": cached_without_limit,
    "default factory": collections.defaultdict(lambda bank=BANK: bank),
    "property": property(lambda self, bank=BANK: bank),
    "static method": staticmethod(lambda bank=BANK: bank),
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD.keys())
@pytest.mark.parametrize("name", ["bank", "_bank"])
def test_data_that_rides_along_in_an_attribute_is_found(held: object, name: str) -> None:
    """Under a public name or a private one, in whatever holds it; the model is refused with the remedy."""
    model = nn.Sequential(Memory(**{name: held}))
    assert (hidden_state(model) or "").startswith(f"'0.{name}' holds ")
    with pytest.raises(ModelRefused, match=rf"'0.{name}' holds .* register it as a parameter"):
        FlatWeights(model)


def test_unlearn_refuses_it_before_the_model_is_copied() -> None:
    """Also where torch cannot copy what is held, such as a tensor with a history."""
    model = Memory(seen=nn.Linear(8, 3)(BANK))
    mechanism = ex.OutputPerturbation(init_clip=1.0, noise_std=1.0)
    with pytest.raises(ModelRefused, match="'seen' holds a tensor"):
        ex.unlearn(model, (BANK, torch.zeros(40).long()), mechanism, loss=lambda m, b: m(b[0]).sum())


def test_hooks_class_attributes_and_attributes_of_parameters_are_looked_into() -> None:
    """A closure of a hook, a tensor of the class, and what hangs on a parameter."""
    hooked, bank = nn.Linear(8, 3), BANK.clone()
    hooked.register_forward_hook(lambda module, inputs, output: output + bank.sum())

    class OfTheClass(nn.Linear):
        bank = BANK

    class ModuleOfTheClass(nn.Linear):
        bank = nn.Linear(8, 3)

    class CacheOfTheClass(nn.Linear):
        @functools.cache  # noqa: B019
        def bank(self) -> Tensor:
            return self(BANK)

    class DefaultOfAMethod(nn.Linear):
        def forward(self, x: Tensor, bank: Tensor = BANK) -> Tensor:
            return super().forward(x) + bank.sum()

    marked, cache = nn.Linear(8, 3), CacheOfTheClass(8, 3)
    marked.weight.before = BANK
    assert hidden_state(cache) is None
    cache.bank()
    assert hidden_state(cache) == "'bank' holds a tensor"
    assert hidden_state(ModuleOfTheClass(8, 3)) == "'bank' holds a module"
    assert hidden_state(DefaultOfAMethod(8, 3)) == "'forward' holds a tensor"
    assert hidden_state(hooked) == "'_forward_hooks' holds a tensor"
    assert hidden_state(OfTheClass(8, 3)) == "'bank' holds a tensor"
    assert hidden_state(marked) == "'weight.before' holds a tensor"


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_module_is_refused_as_it_cannot_be_looked_into() -> None:
    """Its code may hold constants of training data."""
    with pytest.raises(ModelRefused, match="scripted"):
        FlatWeights(torch.jit.script(nn.Linear(8, 3)))


class Ordinary(nn.Module):
    """What models hold beside their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.shape, self.device, self.kind = (
            nn.Linear(8, 3),
            torch.Size((2, 3)),
            torch.device("cpu"),
            torch.float32,
        )
        self.act, self.drop = nn.functional.relu, functools.partial(nn.functional.dropout, p=0.1)
        self.mean, self.rates = [0.1, 0.2, 0.3], np.linspace(0, 0.2, 12).tolist()
        self.vocabulary = {str(i): i for i in range(5000)}
        self.words, self.sizes = {i: str(i) for i in range(5000)}, list(range(1000))
        self.layers, self.weight_of, self.bound = [self.layer], [self.layer.weight], self.layer.forward
        self.settings, self.counter, self.nothing = Settings(), itertools.count(), None
        self.layer.register_forward_hook(lambda module, inputs, output: output)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Symmetric(nn.Module):
    """A parametrisation."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).T


def parametrized() -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def simple(*names: str) -> list[Callable[[], nn.Module]]:
    return [lambda n=n: nn.Sequential(nn.Linear(4, 4), getattr(nn, n)()) for n in names]


COMMON: list[Callable[[], nn.Module]] = [
    Ordinary,
    *simple("ReLU", "GELU", "SiLU", "ELU", "PReLU", "Hardtanh", "Softmax", "Dropout", "Identity", "Flatten", "GLU"),
    *(lambda n=n: getattr(nn, n)(4, 8, 3) for n in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d")),
    *(lambda n=n: getattr(nn, n)(4, 5, 2, bidirectional=True) for n in ("LSTM", "GRU", "RNN")),
    lambda: nn.LSTM(4, 5, proj_size=2),
    lambda: nn.LSTMCell(4, 5),
    lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True),
    lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    lambda: nn.Embedding(5, 4, padding_idx=0),
    lambda: nn.EmbeddingBag(5, 4, sparse=True),
    lambda: nn.Sequential(nn.LayerNorm((3, 4)), nn.RMSNorm(4), nn.GroupNorm(2, 4)),
    lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True)),
    lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.FractionalMaxPool2d(2, output_ratio=0.5), nn.Upsample(scale_factor=2)),
    lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10]),
    lambda: nn.ParameterList([nn.Parameter(torch.ones(2))]),
    lambda: nn.ParameterDict({"a": nn.Parameter(torch.ones(2))}),
    lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    parametrized,
    lambda: nn.DataParallel(nn.Linear(4, 4)),
    lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU())),
    lambda: torch.compile(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), backend="eager"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build", COMMON)
def test_the_layers_of_torch_hide_nothing(build: Callable[[], nn.Module]) -> None:
    """No false alarm, on the module and on its copy, and the weights can be laid out and released."""
    model = build()
    assert hidden_state(model) is None
    FlatWeights(copy.deepcopy(model), reset_buffers=True).release()
