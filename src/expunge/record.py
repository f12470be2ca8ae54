"""What a run reports of itself, and the digest of its weights.

A record holds nothing that depends on the trained model beyond the certified output. Left out on purpose: digests and
statistics of the noise, losses and norms between the steps, the norm of the start. Each would let a reader test a
guess of the trained weights, which the certificate's law does not allow for.
"""

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import singledispatch
from math import frexp, prod
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, cast

import safetensors

from expunge.accounting import MECHANISMS, Mechanism
from expunge.errors import MalformedCertificate, RunError, WeightsMismatch
from expunge.randomness.stream import STREAM

__all__ = [
    "NoiseRecord",
    "RunRecord",
    "TensorInfo",
    "digest_safetensors",
    "digest_tensors",
    "is_digest",
    "mechanism_from_dict",
    "mechanism_to_dict",
    "tensors_in",
    "undigested",
    "weights_digest",
    "weights_tensors",
]

_READER_OF_MODULES = "expunge.training.tensors"  # by name: this room imports no torch


@dataclass(frozen=True, kw_only=True)
class NoiseRecord:
    """The noise as it was drawn.

    Args:
        count: independent vectors drawn and added.
        std: σ of each, per coordinate; a tuple, one for each draw, where they differ.
        dimension: coordinates of each.
        self_test: "passed" where scale, independence and repetition were checked on what reached the weights,
            "none" where no noise was drawn.
        generator: "secret" (made for this run, never stored), "given" by the caller, or "none".
        stream: where the normals came from, e.g. "aes-256-ctr/1"; "torch-mersenne" in certificates of schema 1, "none"
            where no noise was drawn.
        grid: the public step to whose multiples the released weights were rounded; 0 where there is none.
    """

    count: int
    std: float | tuple[float, ...]
    dimension: int
    self_test: str
    generator: str
    stream: str
    grid: float


NO_NOISE = NoiseRecord(count=0, std=0.0, dimension=0, self_test="none", generator="none", stream="none", grid=0.0)

UNCHECKED, ANY_GROUP = "unchecked", "any group"
COVERAGES = ("ids", "content", "ids and content", "ledger", ANY_GROUP, UNCHECKED)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What happened, for `issue` to hold against the mechanism.

    Args:
        mechanism: the public configuration that was run.
        steps_done: gradient steps taken under the mechanism.
        noise: what was drawn.
        layers: (name, number of coordinates) of every covered parameter, in order.
        weights_dtype: of the model, e.g. "bfloat16"; the noisy iterate itself is float64.
        center: "zero", or the digest of the public checkpoint at the ball's centre.
        buffers: how buffers were treated: "none", "public", or "reset".
        public: names of parameters and buffers that the caller declared independent of the forgotten data.
        certified: digest of the weights at the end of the mechanism.
        environment: versions and device.
        estimated: names of the buffers that were reset and estimated again on the retained data.
        coverage: how it was checked that the retained data hold no forgotten row: one of `COVERAGES`.
        start: digests of the trained weights by name, in memory only: with them `issue` refuses weights that never were unlearned.
            Not a field of the certificate, see above.
        procedure: public settings of the run beside the mechanism, JSON-ready: "batch_size", "recovery", "training".
    """

    mechanism: Mechanism
    steps_done: int
    noise: NoiseRecord
    layers: tuple[tuple[str, int], ...]
    weights_dtype: str
    center: str
    buffers: str
    public: tuple[str, ...]
    certified: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    estimated: tuple[str, ...] = ()
    coverage: str = UNCHECKED
    procedure: Mapping[str, Any] = field(default_factory=dict[str, Any])
    start: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]], compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-ready fields, with the mechanism under its name in the closed table."""
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name in _written()}
        return plain | {
            "mechanism": mechanism_to_dict(self.mechanism),
            "noise": asdict(self.noise),
            "layers": [[name, size] for name, size in self.layers],
            "public": list(self.public),
            "environment": dict(self.environment),
            "estimated": list(self.estimated),
            "procedure": dict(self.procedure),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], *, version: int = 2) -> "RunRecord":
        """The record of `to_dict`.

        Args:
            plain: its fields.
            version: of the certificate's schema; what schema 1 did not hold takes its default.

        Raises:
            MalformedCertificate: a field is missing, unknown or of the wrong type.
        """
        if version == 1:
            check_keys("run", plain, _written() - set(_SINCE_2))
            check_keys("run.noise", plain["noise"], {f.name for f in fields(NoiseRecord)} - set(_NOISE_SINCE_2))
            stream = NO_NOISE.stream if plain["noise"]["count"] == 0 else "torch-mersenne"
            plain = {**plain, **_SINCE_2, "noise": {**plain["noise"], **_NOISE_SINCE_2, "stream": stream}}
        check_keys("run", plain, _written())
        check_keys("run.noise", plain["noise"], {f.name for f in fields(NoiseRecord)})
        for name, kind in _TYPES.items():
            _check_type(f"run.{name}", plain[name], kind)
        noise = plain["noise"]
        for name, kind in _NOISE_TYPES.items():
            _check_type(f"run.noise.{name}", noise[name], kind)
        for name in [*plain["public"], *plain["estimated"], *plain["environment"].values()]:
            _check_type("run.public, run.estimated and run.environment", name, str)
        layers: list[tuple[str, int]] = []
        for entry in plain["layers"]:
            _check_type("run.layers", entry, list)
            if len(entry) != 2:
                raise MalformedCertificate(f"run.layers must hold [name, size] pairs, not {entry!r}")
            _check_type("run.layers", entry[0], str)
            _check_type("run.layers", entry[1], int)
            layers.append((entry[0], entry[1]))
        values: dict[str, Any] = dict(plain) | {
            "mechanism": mechanism_from_dict(plain["mechanism"]),
            "noise": NoiseRecord(**noise | {"std": _frozen(noise["std"])}),
            "layers": tuple(layers),
            "public": tuple(plain["public"]),
            "estimated": tuple(plain["estimated"]),
        }
        return cls(**values)

    def check(self) -> None:
        """Raise `RunError` unless the run did exactly what its mechanism says."""
        mechanism, noise = self.mechanism, self.noise
        dimension = sum(size for _, size in self.layers)
        faults = [
            (
                self.steps_done != mechanism.gradient_steps,
                f"took {self.steps_done} of {mechanism.gradient_steps} steps",
            ),
            (noise.count != mechanism.noise_draws, f"drew {noise.count} of {mechanism.noise_draws} noise vectors"),
            (
                noise.count > 0 and noise.std != mechanism.noise_std,
                f"drew noise of scale {noise.std!r}, not {mechanism.noise_std!r}",
            ),
            (
                noise.count > 0 and noise.dimension != dimension,
                f"noise reached {noise.dimension} of {dimension} weights",
            ),
            (noise.count > 0 and noise.self_test != "passed", f"has a noise self-test that says {noise.self_test!r}"),
        ]
        found = [text for fault, text in faults if fault]
        if found:
            raise RunError(f"the run does not match its mechanism '{mechanism.name}': it " + "; it ".join(found))
        contradictions = [text for fault, text in _contradictions(self) if fault]
        if contradictions:
            raise RunError("the record contradicts itself: " + "; ".join(contradictions))


def _contradictions(record: RunRecord) -> list[tuple[bool, str]]:
    """What cannot be true together, whatever the mechanism: (whether it is so, in words)."""
    noise, drawn = record.noise, record.noise.count > 0
    names = [name for name, _ in record.layers]
    listed = [*names, *record.public, *record.estimated]
    return [
        (not drawn and noise != NO_NOISE, "no noise was drawn, and yet some is described"),
        (drawn and "none" in (noise.generator, noise.stream), "noise was drawn from no generator"),
        (noise.stream == STREAM and noise.grid == 0, "the release was not rounded to a public step"),
        (not _is_grid(noise), f"a grid of {noise.grid!r} is no power of two of at most 2^-12 of the noise"),
        (not sum(size for _, size in record.layers), "no weight is covered"),
        (any(size < 0 for _, size in record.layers), "a layer has a negative size"),
        (len(set(listed)) < len(listed), "a name stands twice among layers, public and estimated"),
        (not drawn and record.center != "zero", "a run without noise has no centre"),
        (drawn and record.weights_dtype not in _NOISY_DTYPES, f"no noise is added in {record.weights_dtype}"),
    ]


def _is_grid(noise: NoiseRecord) -> bool:
    last = noise.std[-1] if isinstance(noise.std, tuple) and noise.std else noise.std  # the draw that is released
    assert isinstance(last, (int, float))
    return noise.grid == 0 or (0 < noise.grid <= last * 2.0**-12 and frexp(noise.grid)[0] == 0.5)


_NOISY_DTYPES = ("float32", "bfloat16", "float64")
_SINCE_2: Mapping[str, Any] = {"estimated": [], "coverage": UNCHECKED, "procedure": {}}
_NOISE_SINCE_2: Mapping[str, Any] = {"stream": "none", "grid": 0.0}
_TYPES: Mapping[str, type] = {
    "steps_done": int, "layers": list, "weights_dtype": str, "center": str, "buffers": str, "public": list,
    "certified": str, "environment": dict, "estimated": list, "coverage": str, "procedure": dict,
}  # fmt: skip
_NOISE_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "count": int, "dimension": int, "self_test": str, "generator": str, "std": (int, float, list), "stream": str,
    "grid": (int, float),
}  # fmt: skip


def _written() -> set[str]:
    """The fields of a record that a certificate holds."""
    return {f.name for f in fields(RunRecord)} - {"start"}


def _frozen(value: Any) -> Any:
    """A list as a tuple, so that schedules from JSON equal those of a mechanism."""
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def mechanism_to_dict(mechanism: Mechanism) -> dict[str, Any]:
    """Name and fields of a mechanism of the closed table."""
    if MECHANISMS.get(mechanism.name) is not type(mechanism):
        raise RunError(f"{type(mechanism).__name__} is not in the table of mechanisms: {', '.join(MECHANISMS)}")
    return {"name": mechanism.name} | asdict(cast("Any", mechanism))


def mechanism_from_dict(plain: Mapping[str, Any]) -> Mechanism:
    """The mechanism of `mechanism_to_dict`.

    Raises:
        MalformedCertificate: an unknown mechanism, or fields that are not its own or not valid.
    """
    _check_type("mechanism", plain, dict)
    values = dict(plain)
    name = values.pop("name", None)
    if not isinstance(name, str) or name not in MECHANISMS:
        raise MalformedCertificate(f"unknown mechanism {name!r}; known: {', '.join(MECHANISMS)}")
    mechanism = MECHANISMS[name]
    check_keys(f"mechanism '{name}'", values, {f.name for f in fields(cast("Any", mechanism))})
    try:
        return mechanism(**values)
    except (TypeError, ValueError) as error:
        raise MalformedCertificate(f"mechanism '{name}': {error}") from error


class TensorInfo(NamedTuple):
    """One tensor of a weights file: dtype by safetensors' name, e.g. "F32", and SHA-256 of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    digest: bytes

    @property
    def size(self) -> int:
        """Coordinates."""
        return prod(self.shape)


def tensors_in(content: bytes) -> tuple[TensorInfo, ...]:
    """What a safetensors file's content holds, whatever its metadata or order.

    Raises:
        WeightsMismatch: it is no whole safetensors file.
    """
    try:
        tensors = cast("list[tuple[str, dict[str, Any]]]", safetensors.deserialize(content))
    except safetensors.SafetensorError as error:
        raise WeightsMismatch(f"not a whole safetensors file: {error}") from error
    return tuple(
        TensorInfo(name, str(t["dtype"]), tuple(t["shape"]), len(t["data"]), hashlib.sha256(bytes(t["data"])).digest())
        for name, t in tensors
    )


def digest_tensors(tensors: Iterable[TensorInfo]) -> str:
    """SHA-256 over (name, dtype, shape, bytes) of tensors in any order."""
    total = hashlib.sha256(b"expunge.weights/1\n")
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        shape = ",".join(map(str, tensor.shape))
        total.update(f"{len(tensor.name.encode())}:{tensor.name}|{tensor.dtype}|{shape}|{tensor.nbytes}\n".encode())
        total.update(tensor.digest)
    return f"sha256:{total.hexdigest()}"


def digest_safetensors(content: bytes) -> str:
    """The weights digest of a safetensors file's content, whatever its metadata or order; raises `WeightsMismatch`."""
    return digest_tensors(tensors_in(content))


def is_digest(weights: object) -> TypeGuard[str]:
    """Whether weights are given by their digest."""
    return isinstance(weights, str) and weights.startswith("sha256:")


def weights_digest(weights: object) -> str:
    """The digest of weights: of a safetensors file (path), a PyTorch module, or a digest as it stands."""
    if is_digest(weights):
        return weights
    return digest_tensors(weights_tensors(weights))


@singledispatch
def weights_tensors(weights: object) -> tuple[TensorInfo, ...]:
    """What a safetensors file (path) or a PyTorch module holds.

    Raises:
        WeightsMismatch: the file cannot be read, or is no whole safetensors file.
        TypeError: they are neither.
    """
    if (
        sys.modules.get("torch") is not None
    ):  # whoever holds a module has it; the reader of modules registers itself here
        importlib.import_module(_READER_OF_MODULES)
        reader = weights_tensors.dispatch(type(weights))
        if reader is not weights_tensors.dispatch(object):
            return reader(weights)
    raise TypeError(
        f"weights must be a safetensors path, a digest 'sha256:...', or a torch module, not {type(weights).__name__}"
    )


@weights_tensors.register
def _(weights: str) -> tuple[TensorInfo, ...]:
    return weights_tensors(Path(weights))


@weights_tensors.register(os.PathLike)
def _(weights: "os.PathLike[str]") -> tuple[TensorInfo, ...]:
    return tensors_in(_content(weights))


def undigested(path: str | os.PathLike[str]) -> str | None:
    """What a safetensors file holds beside its tensors, where no digest reaches: its metadata; None where nothing."""
    content = _content(path)
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        header: object = json.loads(content[8:end])
    except ValueError as error:
        raise WeightsMismatch(f"not a whole safetensors file: {error}") from error
    metadata: object = cast("dict[str, object]", header).get("__metadata__") if isinstance(header, dict) else None
    return None if not metadata else f"metadata {metadata!r:.100}"


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WeightsMismatch(f"cannot read the weights {os.fspath(path)}: {error.strerror}") from error


def check_keys(where: str, plain: Mapping[str, Any], expected: set[str]) -> None:
    """Raise `MalformedCertificate` unless `plain` is a mapping with exactly the expected keys."""
    _check_type(where, plain, dict)
    missing, unknown = expected - set(plain), set(plain) - expected
    if missing or unknown:
        parts = [f"lacks {sorted(missing)}"] * bool(missing) + [f"has unknown {sorted(unknown)}"] * bool(unknown)
        raise MalformedCertificate(f"{where} {' and '.join(parts)}")


def _check_type(where: str, value: object, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MalformedCertificate(f"{where} has the wrong type: {value!r}")
