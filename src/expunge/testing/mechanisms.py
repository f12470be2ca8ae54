"""The contract of a mechanism: what every upper bound must satisfy, whatever its theorem."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import exp, inf, isfinite, isnan, log, nan
from typing import Any, Literal, cast

from expunge.accounting import Bound, Kind, Mechanism, Relation, delta_at, gaussian, guarantee
from expunge.testing.contract import require

__all__ = ["check_mechanism"]

_EPSILONS = (0.0, 1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
_NOISE_FACTORS = (1.0, 1.01, 2.0, 10.0)
_LENGTH_FACTORS = (0.37, 1000.0)
_DELTAS = (1e-2, 1e-5, 1e-12)
_ATTAINABLE = -25.0  # log δ; below it a lower bound computed in floats has no digits left
_FLOOR = log(1e-300)  # `delta_at` states no less


def check_mechanism(
    mechanism: Mechanism,
    *,
    noise: str | None = "noise_std",
    steps: str | tuple[str, ...] | None = "steps",
    lengths: Sequence[str] | None = None,
    epsilons: Sequence[float] = _EPSILONS,
    more_steps_prove: Literal["more", "less"] = "more",
    lower: bool = True,
    tight: float | None = 1e-6,
    attained: Callable[[float], float] | None = None,
) -> None:
    """Hold a mechanism against everything that an upper bound on a privacy profile must satisfy.

    Not required: that δ is convex in e^ε. True profiles are; an upper bound need not be.

    Args:
        mechanism: finished, a frozen dataclass; its variants are made by `dataclasses.replace`.
        noise: the field that holds the noise, a number or a tuple; None where there is none.
        steps: the field that holds the number of steps, or the schedules that are cut to have fewer; None, or an absent
            "steps", skips what depends on it.
        lengths: fields that are lengths in the space of weights. All of them times a constant must leave the profile
            as it is. By default the fields that end in `_clip` or `_clips` and `noise_std`.
        epsilons: where the profile is looked at.
        more_steps_prove: "more" where every step hides more (noisy fine-tuning), "less" where it reveals more
            (training itself).
        lower: compare with `log_delta_lower`; for chains of noisy steps this costs about 10 ms a step.
        tight: how far, relative in log δ, upper and lower bound may lie apart for a single step; None for an analysis
            that gives something away there.
        attained: ε -> a lower bound on log δ(ε) of the `retrained` relation from elsewhere, for example an exact
            Gaussian profile: an adversary that does not take the mechanism's word.

    Raises:
        ContractViolation: a contract is broken; the message begins with its name.
        ValueError: `noise`, `steps` or `lengths` name no field.
    """
    epsilons = sorted(epsilons)
    _conforms(mechanism)
    if mechanism.kind is Kind.EXACT:
        _leaks_nothing(mechanism, epsilons)
        return
    if mechanism.kind in (Kind.NONE, Kind.BEHAVIOURAL):
        _claims_nothing(mechanism, epsilons)
        return
    fields = _fields(mechanism)
    steps = None if steps == "steps" and "steps" not in fields else steps
    lengths = _default_lengths(fields) if lengths is None else tuple(lengths)
    counted = (steps,) if isinstance(steps, str) else steps or ()
    for name in (*([noise] if noise else []), *counted, *lengths):
        if name not in fields:
            raise ValueError(f"{type(mechanism).__name__} has no field {name!r}; it has {', '.join(fields)}")
    _is_a_log_probability(mechanism, epsilons)
    _never_grows_with_epsilon(mechanism, epsilons)
    if attained is not None:
        _above("adversary", mechanism, epsilons, Relation.RETRAINED, attained)
    if lower:
        _above_its_own_adversary(mechanism, epsilons)
    if lower and tight is not None:
        _tight_at_one_step(_one_step(mechanism, counted), epsilons, tight)
    _relations_are_ordered(mechanism, epsilons)
    _below_its_mu(mechanism, epsilons)
    if noise is not None:
        _more_noise_proves_more(mechanism, noise, epsilons)
    _steps_count(mechanism, counted, epsilons, more_steps_prove)
    _free_of_units(mechanism, lengths, epsilons)
    _agrees_with_its_guarantee(mechanism, epsilons)
    _refuses_bad_input(mechanism, noise, lengths)


def _conforms(m: Mechanism) -> None:
    """The protocol, a frozen dataclass whose fields survive JSON, and words where a certificate prints words."""
    data = cast("Any", m)
    frozen = dataclasses.is_dataclass(m) and not isinstance(m, type) and data.__dataclass_params__.frozen
    require(frozen, "protocol", "a mechanism is an instance of a frozen dataclass", m)
    require(isinstance(m, Mechanism), "protocol", f"{type(m).__name__} lacks a part of Mechanism", m)
    require(isinstance(m.kind, Kind), "protocol", f"kind must be a Kind, not {m.kind!r}", m)
    words = {"name": m.name, "theorem": m.theorem, "covers": m.covers}
    words |= {f"certifier({r})": m.certifier(r) for r in Relation}
    words |= {f"assumptions[{k}]": text for k, text in enumerate(m.assumptions)}
    for name, text in words.items():
        require(isinstance(text, str) and bool(text.strip()), "protocol", f"{name} says nothing: {text!r}", m)
    require(isinstance(m.assumptions, tuple) and bool(m.assumptions), "protocol", "assumptions is no filled tuple", m)
    try:
        again = type(data)(**json.loads(json.dumps(dataclasses.asdict(data))))
    except (TypeError, ValueError) as error:
        again = error
    require(again == m, "protocol", f"its fields do not survive JSON, which certificates are: {again!r}", m)
    for name, count in {"gradient_steps": m.gradient_steps, "noise_draws": m.noise_draws}.items():
        require(type(count) is int and count >= 0, "protocol", f"{name} is no count: {count!r}", m)
    for name, value in {"output_noise_std": m.output_noise_std, "surviving_norm": m.surviving_norm}.items():
        require(value >= 0, "protocol", f"{name} must be 0 or above, not {value!r}", m)
    require(m.start_radius > 0, "protocol", f"start_radius must be above 0, not {m.start_radius!r}", m)


def _leaks_nothing(m: Mechanism, epsilons: Sequence[float]) -> None:
    for relation in Relation:
        for epsilon in epsilons:
            found = m.log_delta(epsilon, relation)
            require(found == -inf, "exact", f"an exact mechanism has log_delta -inf, not {found} at {epsilon:g}", m)
        require(m.mu(relation) == 0, "exact", f"an exact mechanism has mu 0, not {m.mu(relation)}", m)


def _claims_nothing(m: Mechanism, epsilons: Sequence[float]) -> None:
    for relation in Relation:
        for epsilon in epsilons:
            found = m.log_delta(epsilon, relation)
            say = f"a mechanism of kind '{m.kind}' has log_delta 0, delta = 1, not {found} at {epsilon:g}"
            require(found == 0, "claims nothing", say, m)
        require(m.mu(relation) == inf, "claims nothing", f"mu must be infinite, not {m.mu(relation)}", m)


def _is_a_log_probability(m: Mechanism, epsilons: Sequence[float]) -> None:
    for relation in Relation:
        for epsilon in epsilons:
            found = m.log_delta(epsilon, relation)
            say = f"log_delta({epsilon:g}, {relation}) must be a finite number, 0 or below, not {found!r}"
            require(isfinite(found) and found <= 0, "range", say, m)
        mu = m.mu(relation)
        require(not isnan(mu) and mu >= 0, "range", f"mu({relation}) must be 0 or above, not {mu!r}", m)


def _never_grows_with_epsilon(m: Mechanism, epsilons: Sequence[float]) -> None:
    for relation in Relation:
        profile = [m.log_delta(epsilon, relation) for epsilon in epsilons]
        for k in range(1, len(profile)):
            say = (
                f"log_delta({relation}) grows from {profile[k - 1]:.9g} at epsilon={epsilons[k - 1]:g} to {profile[k]:.9g} "
                f"at {epsilons[k]:g}: a stricter epsilon would be easier to pass"
            )
            require(_at_most(profile[k], profile[k - 1]), "monotone in epsilon", say, m)


def _above(
    contract: str, m: Mechanism, epsilons: Sequence[float], relation: Relation, attained: Callable[[float], float]
) -> None:
    for epsilon in epsilons:
        claimed, reached = m.log_delta(epsilon, relation), attained(epsilon)
        require(not isnan(reached), contract, f"what is attained at epsilon={epsilon:g} is NaN", m)
        say = (
            f"claims log_delta({epsilon:g}, {relation}) = {claimed:.9g}, but an adversary attains {reached:.9g}: "
            "no upper bound"
        )
        require(reached <= claimed + _rounding(reached, claimed), contract, say, m)


def _above_its_own_adversary(m: Mechanism, epsilons: Sequence[float]) -> None:
    """At every ε for one draw of noise, which is cheap; else at the ends and the middle of what floats attain."""
    for relation in Relation:
        where = list(epsilons)
        if m.noise_draws > 1:
            where = [epsilon for epsilon in epsilons if m.log_delta(epsilon, relation) > _ATTAINABLE]
            where = [where[k] for k in sorted({0, len(where) // 2, len(where) - 1})] if where else []
        _above("lower bound", m, where, relation, lambda epsilon, r=relation: m.log_delta_lower(epsilon, r))


def _tight_at_one_step(m: Mechanism | None, epsilons: Sequence[float], tight: float) -> None:
    """One noisy step is a Gaussian mechanism: no slack is left to an honest analysis, and none to a wrong one."""
    if m is None:
        return
    _above_its_own_adversary(m, epsilons)
    for epsilon in epsilons:
        upper, low = m.log_delta(epsilon), m.log_delta_lower(epsilon)
        say = f"at one step and epsilon={epsilon:g} the bounds differ: log_delta={upper:.9g}, log_delta_lower={low:.9g}"
        require(low == -inf or upper - low <= tight * abs(low) + 1e-9, "tight at one step", say, m)


def _relations_are_ordered(m: Mechanism, epsilons: Sequence[float]) -> None:
    """The centre lies in the ball: what is proven against it is never less."""
    for epsilon in epsilons:
        center, retrained = m.log_delta(epsilon, Relation.CENTER), m.log_delta(epsilon, Relation.RETRAINED)
        say = f"log_delta({epsilon:g}) is {center:.9g} against the centre, above {retrained:.9g} against retrained"
        require(_at_most(center, retrained), "order of relations", say, m)
    center, retrained = m.mu(Relation.CENTER), m.mu(Relation.RETRAINED)
    say = f"mu is {center:.9g} against the centre, above {retrained:.9g} against retrained"
    require(center <= retrained * (1 + 1e-12), "order of relations", say, m)


def _below_its_mu(m: Mechanism, epsilons: Sequence[float]) -> None:
    """`mu` is published as a bound on the whole profile."""
    for relation in Relation:
        mu = m.mu(relation)
        for epsilon in epsilons:
            claimed, bound = m.log_delta(epsilon, relation), gaussian.log_delta_upper(epsilon, mu)
            say = (
                f"log_delta({epsilon:g}, {relation}) = {claimed:.9g} lies above {bound:.9g}, the profile of mu={mu:.9g}"
            )
            require(_at_most(claimed, bound), "below the profile of mu", say, m)


def _more_noise_proves_more(m: Mechanism, noise: str, epsilons: Sequence[float]) -> None:
    variants = [_scaled(m, (noise,), factor) for factor in _NOISE_FACTORS]
    for relation in Relation:
        for epsilon in epsilons:
            profile = [variant.log_delta(epsilon, relation) for variant in variants]
            for k in range(1, len(profile)):
                say = (
                    f"{noise} x {_NOISE_FACTORS[k]:g} has log_delta({epsilon:g}, {relation}) = {profile[k]:.9g}, above "
                    f"{profile[k - 1]:.9g} of {noise} x {_NOISE_FACTORS[k - 1]:g}"
                )
                require(_at_most(profile[k], profile[k - 1]), "monotone in noise", say, m)
        factor = 100 * min(max(m.mu(relation), 1.0), 1e6)  # μ of about 0.01 or less is left
        drowned = _scaled(m, (noise,), factor)
        falls = [m.log_delta(epsilon, relation) - drowned.log_delta(epsilon, relation) for epsilon in epsilons]
        say = f"{noise} x {factor:.3g} leaves log_delta({relation}) as it is at every epsilon: noise does not enter"
        require(max(falls) > 1e-6, "noise enters", say, m)


def _steps_count(m: Mechanism, steps: tuple[str, ...], epsilons: Sequence[float], direction: str) -> None:
    variants = list(_with_fewer_and_more(m, steps))
    order = variants if direction == "more" else variants[::-1]
    for relation in Relation:
        for epsilon in epsilons:
            profile = [(count, variant.log_delta(epsilon, relation)) for count, variant in order]
            for (count, before), (other, after) in pairwise(profile):
                say = (
                    f"log_delta({epsilon:g}, {relation}) is {after:.9g} for {other} steps, above {before:.9g} for "
                    f"{count}; more steps should prove {direction}"
                )
                require(_at_most(after, before), "monotone in steps", say, m)


def _free_of_units(m: Mechanism, lengths: Sequence[str], epsilons: Sequence[float]) -> None:
    """Weights measured in another unit are the same weights."""
    for factor in _LENGTH_FACTORS if lengths else ():
        variant = _scaled(m, lengths, factor)
        for relation in Relation:
            for epsilon in epsilons:
                before, after = m.log_delta(epsilon, relation), variant.log_delta(epsilon, relation)
                say = (
                    f"{', '.join(lengths)} times {factor:g} changes log_delta({epsilon:g}, {relation}) from {before:.12g} "
                    f"to {after:.12g}"
                )
                require(_at_most(after, before) and _at_most(before, after), "scale invariance", say, m)


def _agrees_with_its_guarantee(m: Mechanism, epsilons: Sequence[float]) -> None:
    for relation in Relation:
        for delta in _DELTAS:
            proven = guarantee(m, delta=delta, relation=relation)
            assert isinstance(proven, Bound)
            require(
                proven.mu >= m.mu(relation), "guarantee", f"publishes mu={proven.mu}, less than {m.mu(relation)}", m
            )
            if isfinite(proven.epsilon):
                found = m.log_delta(proven.epsilon, relation)
                say = f"publishes epsilon={proven.epsilon:.9g} at delta={delta:g}, where log_delta is {found:.9g}"
                require(found <= log(delta), "guarantee", say, m)
        for epsilon in epsilons:
            delta = delta_at(m, epsilon, relation)
            say = f"delta_at({epsilon:g}) = {delta:.9g} lies below exp(log_delta) = {exp(m.log_delta(epsilon, relation)):.9g}"
            require(delta >= exp(m.log_delta(epsilon, relation)), "guarantee", say, m)
            if 1e-290 < delta < 1:
                back = guarantee(m, delta=delta, relation=relation)
                assert isinstance(back, Bound)
                say = f"delta_at({epsilon:g}) = {delta:.9g} leads back to epsilon={back.epsilon:.12g}"
                require(back.epsilon <= epsilon * (1 + 1e-9) + 1e-12, "guarantee", say, m)


def _refuses_bad_input(m: Mechanism, noise: str | None, lengths: Sequence[str]) -> None:
    cases = [(noise, bad) for bad in (0.0, -1.0, nan, inf)] if noise else []
    cases += [(name, bad) for name in lengths for bad in (-1.0, nan)]
    for name, bad in cases:
        before = _fields(m)[name]
        value = (bad, *before[1:]) if isinstance(before, tuple) else bad
        say = f"{name}={value!r} must raise a ValueError or TypeError that names '{name}'"
        try:
            cast("Any", dataclasses.replace)(m, **{name: value})
        except (ValueError, TypeError) as error:
            require(name in str(error), "bad input", f"{say}, not {error!r}", m)
        else:
            require(False, "bad input", f"{say}; it is accepted", m)


def _at_most(small: float, large: float) -> bool:
    """Up to what rounding of floats explains, and down to the least δ that is ever published."""
    small, large = max(small, _FLOOR), max(large, _FLOOR)
    return small <= large + _rounding(small, large)


def _rounding(one: float, other: float) -> float:
    return 1e-9 * min(abs(one), abs(other)) + 1e-11


def _fields(m: Mechanism) -> dict[str, Any]:
    return {field.name: getattr(m, field.name) for field in dataclasses.fields(cast("Any", m))}


def _default_lengths(fields: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in fields if name == "noise_std" or name.endswith(("_clip", "_clips")))


def _scaled(m: Mechanism, names: Sequence[str], factor: float) -> Mechanism:
    def scale(value: Any) -> Any:
        return (
            tuple(v * factor for v in cast("tuple[float, ...]", value)) if isinstance(value, tuple) else value * factor
        )

    fields = _fields(m)
    return cast("Any", dataclasses.replace)(m, **{name: scale(fields[name]) for name in names})


def _with_steps(m: Mechanism, names: tuple[str, ...], count: int) -> Mechanism:
    fields = _fields(m)
    cut = {name: fields[name][:count] if isinstance(fields[name], tuple) else count for name in names}
    return cast("Any", dataclasses.replace)(m, **cut)


def _one_step(m: Mechanism, names: tuple[str, ...]) -> Mechanism | None:
    if names:
        return _with_steps(m, names, 1)
    return m if m.noise_draws == 1 else None


def _with_fewer_and_more(m: Mechanism, names: tuple[str, ...]) -> Iterator[tuple[int, Mechanism]]:
    """(steps, variant), ascending; schedules can be cut but not lengthened."""
    if not names:
        return
    values = [_fields(m)[name] for name in names]
    whole = next((value for value in values if isinstance(value, int)), None)
    last = whole if whole is not None else len(values[0])
    counts = {1, 2, last // 2, last - 1, last} | ({2 * last} if all(isinstance(v, int) for v in values) else set[int]())
    for count in sorted(c for c in counts if 1 <= c <= 2 * last):
        if count <= last or whole is not None:
            yield count, _with_steps(m, names, count)
