"""What a run reports of itself.

A record holds nothing that depends on the trained model beyond the certified output. Left out on purpose: digests and
statistics of the noise, losses and norms between the steps, the norm of the start. Each would let a reader test a
guess of the trained weights, which the certificate's law does not allow for.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import frexp
from typing import Any, cast

from expunge.accounting import Mechanism
from expunge.certificate.fields import check_keys, check_type
from expunge.certificate.mechanism import mechanism_from_dict, mechanism_to_dict
from expunge.errors import MalformedCertificate, RunError
from expunge.randomness.stream import STREAM

__all__ = ["ANY_GROUP", "COVERAGES", "NO_NOISE", "UNCHECKED", "NoiseRecord", "RunRecord"]


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
        procedure: public settings of the run beside the mechanism, JSON-ready: "batch_size", "recovery", "training",
            "start" and "unlearner".
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
            check_type(f"run.{name}", plain[name], kind)
        noise = plain["noise"]
        for name, kind in _NOISE_TYPES.items():
            check_type(f"run.noise.{name}", noise[name], kind)
        for name in [*plain["public"], *plain["estimated"], *plain["environment"].values()]:
            check_type("run.public, run.estimated and run.environment", name, str)
        layers: list[tuple[str, int]] = []
        for entry in plain["layers"]:
            check_type("run.layers", entry, list)
            if len(entry) != 2:
                raise MalformedCertificate(f"run.layers must hold [name, size] pairs, not {entry!r}")
            check_type("run.layers", entry[0], str)
            check_type("run.layers", entry[1], int)
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
        (not _is_own(record), "procedure.unlearner is not the method that the mechanism names"),
        (drawn and record.weights_dtype not in _NOISY_DTYPES, f"no noise is added in {record.weights_dtype}"),
    ]


def _is_own(record: RunRecord) -> bool:
    """Whether the unlearner that the procedure names, if it names one, is the mechanism's method."""
    named = record.procedure.get("unlearner")
    return named is None or named.get("name") == getattr(record.mechanism, "method", record.mechanism.name)


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
