"""A second verifier of certificates, written from docs/certificate.md alone: the standard library, nothing of expunge.

    python tests/second_verifier.py certificate.json...

The words of the schemas are read from that page too. Numbers are computed otherwise than in expunge: Gaussian profiles in
decimal arithmetic of 60 digits and more, compositions by a discretisation with exact masses and an FFT of this file.
"""

import cmath
import hashlib
import json
import math
import re
import sys
from datetime import datetime
from decimal import Context, Decimal, localcontext
from functools import cache
from itertools import pairwise
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "certificate.md"
PROFILE_AT = [0, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16]
SLACK, ROUND = 1 - 5e-11, 1 + 1e-10
DP_EPSILON, DP_DELTA, DP_FLOOR = 1.01, 0.95, 1e-10  # section 6.4
STEPS_COUNTED = 10_000


class Refused(Exception):
    """The certificate is not valid."""


def need(condition, reason):
    if not condition:
        raise Refused(reason)


# --- 1. The text ---


def parse(raw: bytes):
    need(len(raw) <= 8 * 2**20 and raw.count(b",") <= 400_000, "longer than 8 MiB, or 400,000 commas")

    def unique(pairs):
        need(len({key for key, _ in pairs}) == len(pairs), "a key is repeated")
        return dict(pairs)

    def constant(name):
        raise Refused(f"{name} is no number")

    def integer(text):
        need(len(text) <= 17 and abs(int(text)) < 2**53, "a whole number beyond 2^53 - 1")
        return int(text)

    def real(text):
        need(math.isfinite(float(text)), "a number beyond doubles")
        return float(text)

    try:
        content = json.loads(
            raw.decode(), object_pairs_hook=unique, parse_constant=constant, parse_int=integer, parse_float=real
        )
    except (ValueError, RecursionError) as error:
        raise Refused(f"no JSON: {error}") from error
    need(isinstance(content, dict), "no object")
    return content


# --- 2. The digest ---


def canonical(value) -> str:
    """RFC 8785."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return shortest(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
    return "{" + ",".join(f"{quoted(key)}:{canonical(value[key])}" for key in keys) + "}"


def quoted(text: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(short.get(c, f"\\u{ord(c):04x}" if c < " " else c) for c in text) + '"'


def shortest(x: float) -> str:
    """As ECMAScript writes it: the shortest digits that give x again, which Python's repr has too."""
    if x == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(x)).normalize().as_tuple()
    digits = "".join(map(str, digits))
    point = len(digits) + exponent  # x = 0.digits * 10^point
    if len(digits) <= point <= 21:
        body = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        body = digits[:point] + "." + digits[point:]
    elif -6 < point <= 0:
        body = "0." + "0" * -point + digits
    else:
        power = point - 1
        body = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{'+' if power > 0 else '-'}{abs(power)}"
    return "-" * sign + body


def check_digest(content):
    try:
        text = canonical({key: value for key, value in content.items() if key != "digest"}).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise Refused("no canonical form") from error
    need(content.get("digest") == "sha256:" + hashlib.sha256(text).hexdigest(), "the digest does not match")


# --- 3. The fields ---

HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]"
)


def text(least=1, most=1000):
    return lambda v: isinstance(v, str) and least <= len(v) <= most and not HIDDEN.search(v)


def loose(least, most):
    return lambda v: isinstance(v, str) and least <= len(v) <= most and not re.search("[\ud800-\udfff]", v)


def number(least=0.0, most=math.inf, above=False, below=False):
    def check(v):
        return (
            isinstance(v, (int, float))
            and not isinstance(v, bool)
            and (least < v if above else least <= v)
            and (v < most if below else v <= most)
        )

    return check


def whole(least=0):
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least


def one_of(*words):
    return lambda v: (v is None or isinstance(v, str)) and v in words


def either(*options):
    return lambda v: any(option(v) for option in options)


def matching(pattern):
    return lambda v: isinstance(v, str) and re.fullmatch(pattern, v) is not None


def listed(item, least=0, most=math.inf, unique=False):
    def check(v):
        right = isinstance(v, list) and least <= len(v) <= most and all(map(item, v))
        return right and (not unique or len(set(v)) == len(v))

    return check


def mapping(key, item):
    return lambda v: isinstance(v, dict) and len(v) <= 100 and all(key(k) and item(x) for k, x in v.items())


def closed(optional=(), **items):
    def check(v):
        right = isinstance(v, dict) and set(items) - set(optional) <= set(v) <= set(items)
        return right and all(items[name](x) for name, x in v.items())

    return check


def flag(v):
    return isinstance(v, bool)


def pair(first, second):
    return lambda v: isinstance(v, list) and len(v) == 2 and first(v[0]) and second(v[1])


def date(v):
    if not matching(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00")(v):
        return False
    try:
        datetime.fromisoformat(v)
    except ValueError:
        return False
    return True


DIGEST, COMMITMENT = matching("sha256:[0-9a-f]{64}"), matching("hmac-sha256:[0-9a-f]{64}")
CLAIM = closed(
    optional=("predicate", "region"), predicate=text(1, 4000), region=text(1, 4000),
    kind=one_of("exact", "epsilon_delta", "behavioural", "none"), relation=one_of("retrained", "center"), epsilon=number(),
    delta=number(0, 1), mu=either(number(), one_of(None)), theorem=text(1, 4000), certifier=text(1, 4000),
    proves=text(1, 4000), assumptions=listed(text(1, 4000), 1, 100, unique=True),
)  # fmt: skip
SETTING = either(number(), flag, one_of(None), text(0))
RECIPE = mapping(text(), SETTING)
FREE = either(number(-math.inf), flag, one_of(None), text(0))
NOISE = {
    "count": whole(), "dimension": whole(), "std": either(number(), listed(number(), 1)),
    "self_test": one_of("passed", "none"), "generator": one_of("secret", "given", "none"),
}  # fmt: skip
NOISE_2 = {"stream": one_of("aes-256-ctr/1", "none"), "grid": number()}
NAMED = closed(name=text(), settings=mapping(text(), FREE))
PROCEDURE = closed(
    optional=("batch_size", "recovery", "training", "start", "unlearner"), batch_size=whole(1),
    recovery=either(closed(epochs=number(), rescale=flag, recipe=RECIPE), NAMED),
    training=closed(epochs=number(), recipe=RECIPE), start=NAMED, unlearner=NAMED,
)  # fmt: skip
RUN_2 = {
    "estimated": listed(text(), unique=True), "procedure": PROCEDURE,
    "coverage": one_of("ids", "content", "ids and content", "ledger", "any group", "unchecked"),
}  # fmt: skip


def document(version):
    name = text() if version == 2 else loose(1, 1000)
    dtypes = ["float32", "bfloat16", "float64", "float16"] + ["complex64", "complex128"] * (version == 1)
    run = {
        "mechanism": lambda v: isinstance(v, dict), "steps_done": whole(),
        "noise": closed(**NOISE, **(NOISE_2 if version == 2 else {})),
        "layers": listed(pair(name, whole(version - 1)), 1), "weights_dtype": one_of(*dtypes),
        "center": either(one_of("zero"), DIGEST), "buffers": one_of("none", "public", "reset"),
        "public": listed(name, unique=True), "certified": DIGEST, "environment": mapping(text(), text(0)),
    }  # fmt: skip
    return closed(
        schema=one_of(f"expunge.certificate/{version}"),
        asked=either(one_of(None), closed(epsilon=number(), delta=number(0, 1, above=True, below=True))),
        claim=CLAIM, also_proven=CLAIM,
        profile=listed(closed(epsilon=number(), delta=number(0, 1)), 9, 9),
        run=closed(**run, **(RUN_2 if version == 2 else {})),
        weights=closed(certified=DIGEST, released=DIGEST), commitments=mapping(text(), COMMITMENT),
        recovery=text() if version == 2 else loose(0, 10_000),
        does_not_prove=listed(text(1, 4000), 1, 20), issued=date, digest=DIGEST,
        **({"unchecked": text(0)} if version == 2 else {}),
    )  # fmt: skip


DOCUMENTS = {f"expunge.certificate/{version}": (version, document(version)) for version in (1, 2)}

# --- 5. The mechanisms ---

POSITIVE = number(0, above=True)


def line(v):
    return text()(v) and v == v.strip()


DECAYED = {"learning_rate": POSITIVE, "weight_decay": number(), "steps": whole(1), "noise_std": POSITIVE}
FIELDS = {
    "gradient_clipping": {"init_clip": POSITIVE, "grad_clip": POSITIVE} | DECAYED,
    "scheduled_gradient_clipping": {
        "init_clip": POSITIVE, "grad_clip": POSITIVE, "learning_rate": listed(POSITIVE, 1), "weight_decay": number(),
        "noise_std": listed(POSITIVE, 1),
    },
    "blockwise_gradient_clipping": {
        "block_sizes": listed(whole(1), 1), "block_clips": listed(POSITIVE, 1), "grad_clip": POSITIVE, "blind": flag,
    } | DECAYED,
    "model_clipping": {"model_clip": POSITIVE} | DECAYED,
    "output_perturbation": {"init_clip": POSITIVE, "noise_std": POSITIVE},
    "measured_residual": {
        "residual": POSITIVE, "strong_convexity": POSITIVE, "noise_std": POSITIVE, "provenance": line,
    },
    "dp_training": {
        "sample_clip": POSITIVE, "noise_multiplier": POSITIVE, "sampling_rate": number(0, 1, above=True),
        "steps": whole(1), "group_size": whole(1),
    },
    "retrain": {}, "replay": {"shards": whole(1)},
    "exact_ridge": {"ridge": POSITIVE, "rounding": POSITIVE, "provenance": line},
    "grid_ridge": {
        "ridge": POSITIVE, "grid": POSITIVE, "target_grid": number(), "rounding": POSITIVE, "provenance": line,
    },
    "undeclared_features": {"head": one_of("exact_ridge", "measured_residual"), "noise_std": number()},
    "unproven": {"method": matching(r"[a-z][a-z0-9_]{0,59}")},
}  # fmt: skip
SINCE_2 = ("grid_ridge", "unproven")
WITHDRAWN = ("exact_ridge",)
GROUPS = ("dp_training",)
EXACT = ("retrain", "replay", "exact_ridge", "grid_ridge")


def kind_of(name):
    return "exact" if name in EXACT else "none" if name in ("undeclared_features", "unproven") else "epsilon_delta"


def check_mechanism(m, version):
    name = m.get("name")
    need(name != "prune", "a claim about the weights, which are not read here")
    need(isinstance(name, str) and name in FIELDS, "unknown mechanism")
    need(version == 2 or name not in SINCE_2, "schema 1 has no such mechanism")
    need(closed(name=one_of(name), **FIELDS[name])(m), f"fields of {name}")
    rates = m.get("learning_rate", 0)
    rates = rates if isinstance(rates, list) else [rates]
    need(all(rate * m.get("weight_decay", 0) <= 1 for rate in rates), "learning_rate * weight_decay above 1")
    for one, other in (("learning_rate", "noise_std"), ("block_sizes", "block_clips")):
        if isinstance(m.get(one), list):
            need(len(m[one]) == len(m[other]), f"{one} and {other} of unequal length")


def expected(m):
    """Gradient steps, draws, scale."""
    name, std = m["name"], m.get("noise_std", 0)
    if name == "scheduled_gradient_clipping":
        return len(std), len(std), std
    if name == "blockwise_gradient_clipping":
        return (len(m["block_sizes"]) * m["steps"],) * 2 + (std,)
    if name == "dp_training":
        return m["steps"], m["steps"], m["noise_multiplier"] * m["sample_clip"]
    if "steps" in m:
        return m["steps"], m["steps"], std
    return 0, int(std > 0), std


# --- 4. The record ---


def check_record(content, version):
    run, m = content["run"], content["run"]["mechanism"]
    noise = {"stream": "none" if not run["noise"]["count"] else "torch-mersenne", "grid": 0} | run["noise"]
    sizes = [size for _, size in run["layers"]]
    names = [name for name, _ in run["layers"]] + run["public"] + run.get("estimated", [])
    steps, draws, scale = expected(m)
    need(run["steps_done"] == steps and noise["count"] == draws, "steps or draws")
    if draws:
        need(noise["std"] == scale and noise["dimension"] == sum(sizes), "scale or dimension of the noise")
        need(noise["self_test"] == "passed" and "none" not in (noise["generator"], noise["stream"]), "noise")
        need(run["weights_dtype"] in ("float32", "bfloat16", "float64"), "noise in another dtype")
    else:
        need(noise["std"] == 0 and noise["dimension"] == 0 and noise["grid"] == 0, "noise where none was drawn")
        need((noise["self_test"], noise["generator"], noise["stream"]) == ("none",) * 3, "noise where none was drawn")
        need(run["center"] == "zero", "a centre without noise")
    last = noise["std"][-1] if isinstance(noise["std"], list) else noise["std"]
    grid = noise["grid"]
    need(grid == 0 or (math.frexp(grid)[0] == 0.5 and grid <= last * 2.0**-12), "grid")
    need(grid > 0 or noise["stream"] != "aes-256-ctr/1", "a release without a grid")
    need(sum(sizes) >= 1 and len(set(names)) == len(names), "layers")
    if version == 2:
        named = run["procedure"].get("unlearner")
        need(named is None or named["name"] == m.get("method", m["name"]), "another unlearner")
        need((run["buffers"] == "reset") == bool(run["estimated"]), "estimated buffers")
        need((run["coverage"] == "any group") == (m["name"] in GROUPS), "coverage of another kind of mechanism")
        need((content["unchecked"] != "") == (run["coverage"] == "unchecked"), "unchecked")
        need(m["name"] not in WITHDRAWN, "withdrawn")


# --- 6. What is proven ---


@cache
def upper_tail(x: Decimal, digits: int) -> Decimal:
    """1 - Φ(x) to about so many digits, relative."""
    if x < -12:
        with localcontext(Context(prec=digits + 20)):
            return 1 - upper_tail(-x, digits)
    with localcontext(Context(prec=digits + 20 + int(x * x / 4), Emin=-(10**12), Emax=10**12)):
        density = (-x * x / 2).exp() / (2 * pi(digits + 30 + int(x * x / 4))).sqrt()
        if x < 12:  # 1/2 - φ(x) (x + x^3/3 + x^5/15 + ...)
            term = total = x
            k = 1
            while abs(term) > abs(total) * Decimal(10) ** -(digits + 15 + int(x * x / 4)):
                k += 2
                term *= x * x / k
                total += term
            return Decimal("0.5") - density * total
        below = x
        for k in range(20 + 4 * digits, 0, -1):  # φ(x)/(x + 1/(x + 2/(x + ...)))
            below = x + k / below
        return density / below


@cache
def pi(digits: int) -> Decimal:
    """Machin's formula."""
    with localcontext(Context(prec=digits + 10)):

        def arctan_of_inverse(n):
            power = total = Decimal(1) / n
            k, sign = 1, 1
            while power > Decimal(10) ** -(digits + 5):
                power /= n * n
                k, sign = k + 2, -sign
                total += sign * power / k
            return total

        return 4 * (4 * arctan_of_inverse(5) - arctan_of_inverse(239))


def gaussian(epsilon, mu) -> Decimal:
    """6.1, in decimals."""
    mu = max(mu, 1e-290)
    near = float(epsilon) / mu - mu / 2
    if near > 60:
        return Decimal(0)
    if mu > 70 and near < -30:
        return Decimal(1)
    digits = 45 + max(0, -math.floor(math.log10(mu)))
    with localcontext(Context(prec=digits + 40, Emin=-(10**12), Emax=10**12)):
        e, m = Decimal(epsilon), Decimal(mu)
        u, v = e / m - m / 2, e / m + m / 2
        return max(upper_tail(u, digits) - e.exp() * upper_tail(v, digits), Decimal(0))


def constant_mu(distance, push, decay, std, steps, last=False):
    """6.2 for equal steps."""

    def bound(k):
        if decay == 0:
            return (distance + k * push) / (std * math.sqrt(k))
        if decay == 1:
            return push / std
        kept = math.exp(k * math.log1p(-decay))
        moved = kept * distance - push * math.expm1(k * math.log1p(-decay)) / decay
        return moved / (std * math.sqrt(-math.expm1(2 * k * math.log1p(-decay)) / (decay * (2 - decay))))

    if last:
        return bound(steps)
    if decay == 0:
        near = distance / push
    elif decay == 1 or decay * distance >= push:
        near = steps if decay < 1 else 1
    else:
        near = math.log1p(-decay * distance / push) / math.log1p(-decay)
    near = int(min(max(near, 1), steps))
    return min(bound(k) for k in range(max(near - 2, 1), min(near + 2, steps) + 1))


def varying_mu(distance, pushes, decays, stds):
    c, u, best = distance, 0.0, math.inf
    for push, decay, std in zip(pushes, decays, stds, strict=True):
        c, u = (1 - decay) * c + push, math.hypot((1 - decay) * u, std)
        best = min(best, c / u)
    return best


def mu_of(m, relation):
    reach, name = 2 if relation == "retrained" else 1, m["name"]
    if name == "output_perturbation":
        return reach * m["init_clip"] / m["noise_std"]
    if name == "measured_residual":
        return m["residual"] / m["strong_convexity"] / m["noise_std"]
    if name == "model_clipping":
        return reach * m["model_clip"] / m["noise_std"]
    if name == "dp_training":
        return m["group_size"] * math.sqrt(m["steps"]) / m["noise_multiplier"]
    if name == "scheduled_gradient_clipping":
        rates = m["learning_rate"]
        pushes, decays = [r * m["grad_clip"] for r in rates], [r * m["weight_decay"] for r in rates]
        return reach * varying_mu(m["init_clip"], pushes, decays, m["noise_std"])
    rate, std, steps = m["learning_rate"], m["noise_std"], m["steps"]
    push, decay = rate * m["grad_clip"], rate * m["weight_decay"]
    if name == "gradient_clipping":
        return reach * constant_mu(m["init_clip"], push, decay, std, steps)
    clips = m["block_clips"]
    last = len(clips) - 1
    parts = [constant_mu(c, push, decay, std, steps, not (m["blind"] or b == last)) for b, c in enumerate(clips)]
    return reach * math.hypot(*parts)


def delta_of(m, epsilon, relation) -> Decimal:
    """δ(ε) of every mechanism that has one."""
    plain = gaussian(epsilon, mu_of(m, relation))
    if m["name"] == "dp_training" and m["sampling_rate"] < 1:
        return min(
            plain,
            Decimal(composed(*(m[k] for k in ("sampling_rate", "group_size", "noise_multiplier", "steps")))(epsilon)),
        )
    if m["name"] != "model_clipping":
        return plain
    theta, shift = Decimal(1), mu_of(m, "retrained")
    with localcontext(Context(prec=60, Emin=-(10**12), Emax=10**12)):
        for _ in range(min(m["steps"], STEPS_COUNTED)):
            grown = (1 + (Decimal(epsilon).exp() - 1) / theta).ln()
            step = gaussian(grown, shift) if grown < Decimal(10) ** 12 else Decimal(0)
            theta *= step
            if theta < Decimal(10) ** -400 or step == 1:
                break
    return theta if relation == "retrained" else min(theta, plain)


# 6.4: the loss L = log dP/dQ grows along the line. Mass between two of its grid points goes to the two, such that what P
# and Q have of it stays; this can only raise H. The rest is a convolution.


@cache
def composed(q, m, nu, steps):
    """ε -> an upper bound on δ(ε)."""
    far = m / nu + 12
    weights = [math.comb(m, j) * q**j * (1 - q) ** (m - j) for j in range(m + 1)]

    def loss(x):
        terms = [math.log(w) + x * j / nu - j * j / (2 * nu * nu) for j, w in enumerate(weights) if w > 0]
        top = max(terms)
        return top + math.log(sum(math.exp(t - top) for t in terms))

    def masses(a, b):
        """Of (a, b] under P and under Q."""
        shift = [(w, j / nu) for j, w in enumerate(weights)]
        return sum(w * between(a - s, b - s) for w, s in shift), between(a, b)

    low, high = loss(-12), loss(far)
    sample = [(x, loss(x), masses(x, x + 0.05)) for x in (-12 + 0.05 * k for k in range(int((far + 12) / 0.05)))]
    deviation = min(spread([(level, mass[side]) for _, level, mass in sample]) for side in (0, 1))
    h = max(deviation / 40, (high - low) / 20_000)
    first, last = math.floor(low / h), math.ceil(high / h)
    edges, x = [-12.0], -12.0
    for i in range(first + 1, last):
        x = crossing(loss, i * h, x, far)
        edges.append(x)
    edges.append(far)
    present, absent = [0.0] * (last - first + 1), [0.0] * (last - first + 1)
    for k, (a, b) in enumerate(pairwise(edges)):
        p, w = masses(a, b)
        ratio = math.exp((first + k) * h)
        upper = min(max((p / ratio - w) / math.expm1(h), 0.0), w)
        for at, part in ((k, w - upper), (k + 1, upper)):
            absent[at] += part
            present[at] += part * math.exp((first + at) * h)
    given = 1e-11 + steps * 1e-15  # what lies beyond the line, and what the FFT rounds
    sides = [Sum(present, first, h, steps), Sum(absent[::-1], -last, h, steps)]
    return lambda epsilon: max(side.hockey_stick(epsilon) for side in sides) + given


def between(a, b):
    """Φ(b) - Φ(a)."""
    root = math.sqrt(0.5)
    if a > 0:
        return 0.5 * (math.erfc(a * root) - math.erfc(b * root))
    return 0.5 * (math.erfc(-b * root) - math.erfc(-a * root))


def spread(weighted):
    whole_ = sum(w for _, w in weighted)
    mean = sum(x * w for x, w in weighted) / whole_
    return math.sqrt(sum(w * (x - mean) ** 2 for x, w in weighted) / whole_)


def crossing(loss, target, low, high):
    for _ in range(60):
        middle = (low + high) / 2
        if loss(middle) < target:
            low = middle
        else:
            high = middle
        if high - low < 1e-13 * max(1, abs(high)):
            break
    return high


class Sum:
    """The law of a sum of equal independent losses on a grid, by FFT over a window that Chernoff's bound picks."""

    def __init__(self, mass, first, h, steps):
        at = [(first + k) * h for k in range(len(mass))]
        mean = sum(x * w for x, w in zip(at, mass, strict=True))
        deviation = spread(list(zip(at, mass, strict=True)))
        tilts = [t / (math.sqrt(steps) * deviation) for t in (0.5, 1, 2, 3, 4.5, 6.5, 9, 13, 20, 40)]

        def reach(sign):
            most = max(sign * (x - mean) for x in at)

            def cumulant(t):
                parts = (w * math.exp(t * (sign * (x - mean) - most)) for x, w in zip(at, mass, strict=True))
                return math.log(sum(parts)) + t * most

            return min((steps * cumulant(t) + 30) / t for t in tilts)

        self.h, self.low = h, math.floor((steps * mean - reach(-1)) / h)
        size = 1 << max(8, math.ceil(math.log2((steps * mean + reach(1)) / h - self.low)))
        folded = [0j] * size
        for k, w in enumerate(mass):
            folded[(first + k) % size] += w
        spectrum = [z**steps for z in fft(folded)]
        law = [z.real / size for z in fft([z.conjugate() for z in spectrum])]
        self.law = [max(law[(self.low + k) % size], 0.0) for k in range(size)]
        self.lost = 2 * math.exp(-30)

    def hockey_stick(self, epsilon):
        start = max(math.floor(epsilon / self.h) - self.low, 0)
        rest = range(start, len(self.law))
        value = sum(-self.law[k] * math.expm1(min(epsilon - (self.low + k) * self.h, 0.0)) for k in rest)
        return value + self.lost


def fft(x):
    if len(x) == 1:
        return x
    half = len(x) // 2
    even, odd = fft(x[::2]), fft(x[1::2])
    turned = [cmath.exp(-2j * math.pi * k / len(x)) * odd[k] for k in range(half)]
    return [even[k] + turned[k] for k in range(half)] + [even[k] - turned[k] for k in range(half)]


# --- 7. The claims ---


@cache
def words(version):
    page = PAGE.read_text(encoding="utf-8")
    block = re.search(rf"<!-- words {version} -->\s*```json\n(.*?)```", page, flags=re.S)
    assert block is not None
    return json.loads(block[1])


def check_claim(claim, m, version):
    name = m["name"]
    kind, numbers = kind_of(name), (claim["epsilon"], claim["delta"], claim["mu"])
    need(claim["kind"] == kind and not {"predicate", "region"} & set(claim), "kind")
    if kind == "exact":
        need(numbers == (0, 0, 0), "exact with a number")
    elif kind == "none":
        need(numbers == (0, 1, None), "nothing with a number")
    else:
        need(0 < claim["delta"] < 1 and claim["mu"] is not None, "delta or mu")
        private = name == "dp_training" and m["sampling_rate"] < 1
        epsilon = claim["epsilon"] * DP_EPSILON if private else claim["epsilon"] / (ROUND * SLACK)
        need(delta_of(m, epsilon, claim["relation"]) <= Decimal(claim["delta"]), "epsilon is not proven")
        need(claim["mu"] >= SLACK * max(ROUND * mu_of(m, claim["relation"]), 1e-290), "mu is not proven")
    book = words(version)
    own = book["mechanisms"][name]
    need(claim["theorem"] == own["theorem"], "theorem")
    need(claim["assumptions"] == [book["sentences"][key] for key in own["assumptions"]], "assumptions")
    certifier = own["certifier"][claim["relation"]]
    need(claim["certifier"] == certifier, "certifier")
    fill = {"covers": own["covers"].format(**m), "certifier": certifier}
    fill |= {name: format(claim[name], ".6g") for name in ("epsilon", "delta")}
    need(claim["proves"] == own.get("proves", book["proves"][kind]).format(**fill), "proves")


def check_profile(content, m):
    claim, before, kind = content["claim"], 1.0, kind_of(m["name"])
    for at, point in zip(PROFILE_AT, content["profile"], strict=True):
        epsilon, delta = point["epsilon"], point["delta"]
        need(epsilon == at, "profile at another epsilon")
        bound = min(before, claim["delta"]) if epsilon >= claim["epsilon"] else before
        need(delta <= max(bound * (1 + 1e-6), 0 if kind == "exact" else 1e-20), "profile contradicts itself")
        before = delta
        if kind == "none":
            need(delta == 1, "a profile where nothing is proven")
        elif kind == "epsilon_delta":
            own = float(delta_of(m, epsilon, claim["relation"]))
            least = min(max(ROUND * own, 1e-300), 1) * SLACK
            if m["name"] == "dp_training" and m["sampling_rate"] < 1:
                least = DP_DELTA * own - DP_FLOOR
            need(delta >= least, "profile is not proven")


def verify(raw: bytes) -> None:
    """Raise `Refused` with the reason, or return."""
    content = parse(raw)
    schema = content.get("schema")
    need(isinstance(schema, str) and schema in DOCUMENTS, "unknown schema")
    check_digest(content)
    version, check = DOCUMENTS[schema]
    need(check(content), "a field holds what it cannot")
    m = content["run"]["mechanism"]
    check_mechanism(m, version)
    check_record(content, version)
    for name in ("claim", "also_proven"):
        check_claim(content[name], m, version)
    need(content["claim"]["relation"] != content["also_proven"]["relation"], "one relation twice")
    check_profile(content, m)
    claim, asked, weights = content["claim"], content["asked"], content["weights"]
    need(asked is None or (claim["epsilon"] <= asked["epsilon"] and claim["delta"] <= asked["delta"]), "asked")
    need(content["does_not_prove"] == words(version)["does_not_prove"], "does_not_prove")
    unchanged = weights["certified"] == weights["released"]
    need((content["recovery"] == words(version)["no_recovery"]) == unchanged, "recovery")
    need(weights["certified"] == content["run"]["certified"], "weights.certified")


if __name__ == "__main__":
    for given in sys.argv[1:]:
        try:
            verify(Path(given).read_bytes())
        except Refused as refused:
            print(f"{given}: refused: {refused}")
            sys.exit(1)
        print(f"{given}: valid")
