"""A digest of code changes with everything that decides what the code does, and with nothing else."""

import collections
import copy
import dataclasses
import enum
import functools
import importlib
import os
import random
import secrets
import subprocess
import sys
import time
import types
import uuid
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from expunge.errors import ModelRefused
from expunge.fingerprint import code_digest, model_digest, tensors_held
from fingerprint import settings_of_mine

held = None  # what the losses below read; the tests put other things here


def reads_a_global(model, batch):
    return held


def digest_with(value):
    """Of a loss that reads `value` in a global of its module."""
    globals()["held"] = value
    try:
        return code_digest(reads_a_global)
    finally:
        globals()["held"] = None


@dataclasses.dataclass
class Plain:
    smoothing: float = 0.1
    weights: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    smoothing: float = 0.1


class Mode(enum.Enum):
    HARD = 1
    SOFT = 2


class Some(enum.Flag):
    A = 1
    B = 2


class Deep:
    __slots__ = ("__hidden",)

    def __init__(self, hidden):
        self.__hidden = hidden


class Number(float):
    pass


class Registry(dict):
    def __init__(self, note, **items):
        super().__init__(**items)
        self.note = note


def of_class(**attributes):
    return type("Loss", (), attributes)()


def scaled(by):
    return lambda value: value * by


def with_attribute(value):
    def function():
        return 1

    function.weight = value
    return function


def with_hook(scale, kind="register_forward_hook"):
    layer = nn.Identity()
    getattr(layer, kind)(lambda module, *rest: rest[-1] * scale)
    return layer


def hooked_tensor(scale):
    weight = torch.ones(2, requires_grad=True)
    weight.register_hook(lambda gradient: gradient * scale)
    return weight


def criterion(weight):
    return nn.CrossEntropyLoss(weight=torch.tensor([1.0, weight]))


def frozen(layer):
    layer.requires_grad_(False)
    return layer


def plain_attribute(value):
    layer = nn.Identity()
    layer.private = {"scale": value}
    return layer


def referred(value):
    kept.append(value)
    return weakref.ref(value)


kept = []
masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])

# What a loss may hold -> the same with another setting.
PAIRS = {
    "tensor": (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 5.0])),
    "dtype of a tensor": (torch.ones(2), torch.ones(2, dtype=torch.float64)),
    "sparse tensor": (torch.eye(2).to_sparse(), (2 * torch.eye(2)).to_sparse()),
    "bfloat16": (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)),
    "conjugate": (torch.tensor([1j]), torch.tensor([1j]).conj()),
    "hook of a tensor": (hooked_tensor(1), hooked_tensor(2)),
    "array": (np.arange(3.0), np.arange(3.0) * 2),
    "array of objects": (np.array([1, "a"], dtype=object), np.array([1, "b"], dtype=object)),
    "masked array": (masked, np.ma.masked_array([1.0, 2.0], mask=[True, False])),
    "number of numpy": (np.float64(1), np.float64(2)),
    "criterion": (criterion(1.0), criterion(9.0)),
    "setting of a criterion": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "reduction": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")),
    "mode of a teacher": (nn.Dropout(), nn.Dropout().eval()),
    "frozen teacher": (nn.utils.parametrizations.weight_norm(nn.Linear(1, 1)), nn.Linear(1, 1)),
    "private attribute": (plain_attribute(1), plain_attribute(2)),
    "modules": (nn.ModuleDict({"a": criterion(1.0)}), nn.ModuleDict({"a": criterion(2.0)})),
    "forward hook": (with_hook(1), with_hook(2)),
    "forward hook or none": (with_hook(1), nn.Identity()),
    "backward hook": (with_hook(1, "register_full_backward_hook"), with_hook(2, "register_full_backward_hook")),
    "pre-hook": (with_hook(1, "register_forward_pre_hook"), with_hook(2, "register_forward_pre_hook")),
    "dictionary": ({"smoothing": 0.0}, {"smoothing": 0.4}),
    "dictionary of tensors": ({"w": [torch.ones(2)]}, {"w": [torch.zeros(2)]}),
    "order of a dictionary": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "set": ({"a", "b"}, {"a", "c"}),
    "nested": ([({"a": frozenset({1})},)], [({"a": frozenset({2})},)]),
    "default of a dictionary": (collections.defaultdict(list), collections.defaultdict(set)),
    "deque": (collections.deque([1]), collections.deque([1], maxlen=5)),
    "dictionary of one's own": (Registry("a", x=1), Registry("b", x=1)),
    "its items": (Registry("a", x=1), Registry("a", x=2)),
    "dataclass": (Plain(0.1), Plain(0.2)),
    "list of a dataclass": (Plain(), Plain(weights=[1])),
    "dataclass with slots": (Slotted(0.1), Slotted(0.2)),
    "hidden slot": (Deep(1), Deep(2)),
    "named tuple": (collections.namedtuple("T", "a")(1), collections.namedtuple("T", "a")(2)),
    "namespace": (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
    "enum": (Mode.HARD, Mode.SOFT),
    "flag": (Some.A, Some.A | Some.B),
    "number of one's own": (Number(1), Number(2)),
    "signed zero": (0.0, -0.0),
    "truth": (1, True),
    "partial": (functools.partial(scaled, 1), functools.partial(scaled, 2)),
    "keyword of a partial": (functools.partial(scaled, by=1), functools.partial(scaled, by=2)),
    "closure": (scaled(1), scaled(2)),
    "function in a closure": (scaled(scaled(1)), scaled(scaled(2))),
    "attribute of a function": (with_attribute(1), with_attribute(2)),
    "class attribute": (of_class(scale=1), of_class(scale=2)),
    "tensor of a class": (of_class(scale=torch.ones(1)), of_class(scale=torch.zeros(1))),
    "property": (of_class(p=property(scaled(1))), of_class(p=property(scaled(2)))),
    "cached property": (
        of_class(p=functools.cached_property(scaled(1))), of_class(p=functools.cached_property(scaled(2))),
    ),
    "static method": (of_class(s=staticmethod(scaled(1))), of_class(s=staticmethod(scaled(2)))),
    "class method": (of_class(c=classmethod(scaled(1))), of_class(c=classmethod(scaled(2)))),
    "call": (of_class(__call__=scaled(1)), of_class(__call__=scaled(2))),
    "nested class": (of_class(Inner=of_class(a=1)), of_class(Inner=of_class(a=2))),
    "class itself": (type("A", (), {"x": 1}), type("A", (), {"x": 2})),
    "bound method": (of_class(__call__=scaled(1)).__call__, of_class(__call__=scaled(2)).__call__),
    "cached function": (functools.cache(scaled(1)), functools.cache(scaled(2))),
    "wrapped by torch": (torch.no_grad()(scaled(1)), torch.no_grad()(scaled(2))),
    "vmapped": (torch.vmap(scaled(1)), torch.vmap(scaled(2))),
    "weak reference": (referred(Plain(1)), referred(Plain(2))),
    "read-only view": (types.MappingProxyType({"a": 1}), types.MappingProxyType({"a": 2})),
    "distribution": (torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.0, 2.0)),
    "generic of a library": (slice(1, 2), slice(1, 3)),
    "device": (torch.device("cpu"), torch.device("meta")),
    "bytes": (bytearray(b"a"), bytearray(b"b")),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_another_setting_is_another_digest_wherever_it_is_held(name):
    one, other = PAIRS[name]
    assert digest_with(one) == digest_with(one)
    assert digest_with(one) != digest_with(other)


@pytest.mark.parametrize("name", [n for n in PAIRS if n not in ("weak reference", "hook of a tensor")])
def test_a_copy_has_the_same_digest(name):
    """Not what an object is called in memory, but what it holds."""
    try:
        again = copy.deepcopy(PAIRS[name][0])
    except TypeError:
        pytest.skip("cannot be copied")
    assert digest_with(PAIRS[name][0]) == digest_with(again)


def test_a_singledispatch_function_is_followed_into_what_was_registered_but_not_into_its_cache():
    def made(by):
        @functools.singledispatch
        def loss(value):
            return value

        loss.register(int)(scaled(by))
        return loss

    one = made(1)
    before = digest_with(one)
    one("text")  # fills the cache
    assert digest_with(one) == before != digest_with(made(2))


def test_tensors_that_pickle_would_leave_out_of_a_librarys_object_are_found():
    """A counter is pickled by its counts alone, whatever else hangs on it; the digest stays that of the counts."""
    plain, hung = collections.Counter("aab"), collections.Counter("aab")
    hung.teacher = [torch.arange(20.0)]
    assert [t.tolist() for t in tensors_held(hung)] == [torch.arange(20.0).tolist()]
    assert not tensors_held(plain)
    assert code_digest(hung) == code_digest(plain)
    deep = collections.Counter()
    deep.next = collections.Counter()
    deep.next.next, deep.next.teacher = deep, torch.ones(17)
    assert len(tensors_held({"loss": deep})) == 1


def test_what_refers_to_itself_is_followed_once():
    loop: dict[str, object] = {"a": 1}
    loop["self"] = [loop]
    other: dict[str, object] = {"a": 2}
    other["self"] = [other]
    assert digest_with(loop) == digest_with(loop) != digest_with(other)


def reads_an_attribute(model, batch):
    return settings_of_mine.SMOOTHING


def hands_the_module_on(model, batch):
    return getattr(settings_of_mine, "SMOO" + "THING")


def calls_into_the_module(model, batch):
    return settings_of_mine.smooth(1)


def imports_inside(model, batch):
    from fingerprint.settings_of_mine import smooth

    return smooth(1)


def imports_the_module_inside(model, batch):
    import fingerprint.settings_of_mine as mine

    return mine.SMOOTHING


def reads_all_globals(model, batch):
    return globals()["settings_" + "of_mine"].SMOOTHING


@pytest.mark.parametrize(
    "loss",
    [
        reads_an_attribute, hands_the_module_on, calls_into_the_module, imports_inside, imports_the_module_inside,
        scaled(settings_of_mine),
    ],
)  # fmt: skip
def test_settings_in_another_module_of_ones_own_count(loss, monkeypatch):
    before = code_digest(loss)
    monkeypatch.setattr(settings_of_mine, "SMOOTHING", 0.2)
    assert code_digest(loss) != before


def test_all_globals_count_where_the_code_asks_for_all():
    with pytest.raises(ModelRefused, match=r"reads_all|looked into|→"):
        code_digest(reads_all_globals)  # this file's, which hold much that cannot be looked into


def test_a_function_that_somebody_put_into_a_library_counts(monkeypatch):
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    before, of_criterion = code_digest(loss), digest_with(nn.CrossEntropyLoss())
    monkeypatch.setattr(nn.functional, "cross_entropy", scaled(1))
    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", scaled(1))
    assert code_digest(loss) != before
    assert digest_with(nn.CrossEntropyLoss()) != of_criterion


def smooth(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def of_a_class(model, batch):
    return nn.CrossEntropyLoss()(model(batch[0]), batch[1])


class Callable:
    def __call__(self, *given):
        return 0


@pytest.mark.parametrize(
    "other",
    [
        nn.functional.multi_margin_loss,
        functools.partial(nn.functional.cross_entropy, label_smoothing=0.1),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        Callable(),
        Callable().__call__,
        torch.relu,
        np.sum,
    ],
)
def test_whatever_somebody_put_in_the_place_of_a_librarys_function_counts(other, monkeypatch):
    before = code_digest(smooth)
    monkeypatch.setattr(nn.functional, "cross_entropy", other)
    assert code_digest(smooth) != before


def test_a_class_that_somebody_changed_or_put_into_a_library_counts(monkeypatch):
    before = code_digest(of_a_class)
    with monkeypatch.context() as patch:
        patch.setattr(nn.CrossEntropyLoss, "forward", scaled(1))
        assert code_digest(of_a_class) != before
    monkeypatch.setattr(nn, "CrossEntropyLoss", nn.MultiMarginLoss)
    assert code_digest(of_a_class) != before


def test_what_torch_writes_to_a_function_at_its_first_call_does_not_count():
    from torch.utils.checkpoint import checkpoint

    def loss(model, batch):
        return checkpoint(model, batch, use_reentrant=False).sum()

    inner = dict(zip(checkpoint.__code__.co_freevars, checkpoint.__closure__, strict=True))["fn"].cell_contents
    vars(inner).pop("__dynamo_disable", None)
    before = code_digest(loss)
    loss(nn.Linear(2, 1), torch.ones(3, 2))
    assert "__dynamo_disable" in vars(inner)
    assert code_digest(loss) == before


@pytest.mark.parametrize("read", ["os.getenv", "getenv"])
def test_an_environment_variable_that_getenv_reads_counts(read, monkeypatch):
    loss = eval(f"lambda model, batch: float({read}('SMOOTHING_OF_MINE'))", {"os": os, "getenv": os.getenv})
    monkeypatch.setenv("SMOOTHING_OF_MINE", "0.1")
    before = code_digest(loss)
    monkeypatch.setenv("SMOOTHING_OF_MINE", "0.2")
    assert code_digest(loss) != before


def test_an_environment_variable_counts_where_the_code_reads_the_environment(monkeypatch):
    def loss(model, batch):
        return float(os.environ["SMOOTHING_OF_MINE"])

    monkeypatch.setenv("SMOOTHING_OF_MINE", "0.1")
    before = code_digest(loss)
    monkeypatch.setenv("SMOOTHING_OF_MINE", "0.2")
    assert code_digest(loss) != before


def unseeded():
    return np.random.default_rng().random()


def seeded():
    return np.random.default_rng(0).random()


def from_globals():
    return random.random() + np.random.rand() + random.gauss(0, 1) + float(torch.rand(1))  # noqa: NPY002


def tells_the_time():
    return time.time()


def takes_secrets():
    return secrets.token_bytes(3), os.urandom(3), uuid.uuid4()


def evaluates():
    return eval("held")


def finds_later():
    return importlib.import_module("held")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (unseeded, "default_rng .* unseeded here"),
        (tells_the_time, "a clock"),
        (takes_secrets, "the system's coins"),
        (evaluates, "code that is found at run time"),
        (finds_later, "code that is found at run time"),
    ],
)
def test_code_that_no_seed_repeats_is_refused(code, reason):
    with pytest.raises(ModelRefused, match=reason):
        code_digest(code)


@pytest.mark.parametrize("code", [seeded, from_globals])
def test_code_whose_coins_are_seeded_is_taken(code):
    assert code_digest(code) == code_digest(code)


@pytest.mark.parametrize(
    "made",
    [
        torch.Generator, lambda: np.random.default_rng(0), lambda: random.Random(0), lambda: iter([1]),
        lambda: (i for i in [1]), lambda: np.random.RandomState(0), random.SystemRandom, lambda: map(str, [2]),
    ],
)  # fmt: skip
def test_generators_and_iterators_are_refused_by_where_they_are_held(made):
    with pytest.raises(ModelRefused, match=r"code → held → \['coins'\] \("):
        digest_with({"coins": made()})
    globals()["held"] = {"coins": made()}
    try:
        assert code_digest(reads_a_global, strict=False)  # its type counts, no more
    finally:
        globals()["held"] = None


def test_open_files_and_what_is_nested_too_deeply_are_refused():
    with Path(__file__).open() as file, pytest.raises(ModelRefused, match="held"):
        digest_with(file)
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ModelRefused, match="nested too deeply"):
        digest_with(deep)


def test_a_networks_digest_is_of_its_code_attributes_and_hooks_but_not_of_its_weights():
    def made(scale=1.0, hook=None, width=2):
        layer = nn.Linear(2, width)
        layer.scale = {"by": scale}
        if hook is not None:
            layer.register_forward_hook(scaled(hook))
        return nn.Sequential(layer, nn.Dropout())

    assert model_digest(made()) == model_digest(made()) == model_digest(made().eval())
    others = [made(scale=2.0), made(hook=1), made(hook=2), made(width=3), made().requires_grad_(False)]
    assert len({model_digest(made()), *map(model_digest, others)}) == 6


def test_a_hook_of_all_modules_is_part_of_a_networks_digest():
    before = model_digest(nn.Linear(2, 2))
    handle = nn.modules.module.register_module_forward_hook(scaled(2))
    try:
        assert model_digest(nn.Linear(2, 2)) != before
    finally:
        handle.remove()


PROGRAM = """
import sys
sys.path.insert(0, {here!r})
import torch
torch.manual_seed(0)
from fingerprint import test_digests as tests
for name, (one, _) in tests.PAIRS.items():
    print(name, tests.digest_with(one))
print(tests.code_digest(tests.calls_into_the_module), tests.code_digest(tests.from_globals))
"""


def test_digests_are_the_same_in_every_process():
    """Other addresses, other order of sets, bytecode from the compiler or from the cache."""
    program = PROGRAM.format(here=str(Path(__file__).parents[1]))
    printed = [
        subprocess.run(
            [sys.executable, *flags, "-c", program], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed, flags in (("1", ()), ("2", ("-B",)))
    ]  # fmt: skip
    assert printed[0] == printed[1] != ""
