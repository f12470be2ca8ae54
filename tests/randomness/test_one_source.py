"""What must stay secret is drawn in one room: every other draw in the package is listed here, with the reason."""

import re
from pathlib import Path

import pytest

import expunge

SOURCE = Path(expunge.__file__).parent
DRAWS = re.compile(
    r"torch\.(?:randn|rand|randint|randperm|bernoulli|multinomial|normal|poisson)(?:_like)?\b"
    r"|\.(?:normal_|uniform_|random_|bernoulli_|exponential_|cauchy_|log_normal_|geometric_)\("
    r"|torch\.Generator\(|\bmanual_seed\(|\.seed\(\)|\bset_rng_state\("
    r"|\bimport (?:random|secrets|uuid)\b|\bfrom (?:random|secrets|uuid|numpy\.random) import"
    r"|\burandom\b|\bgetrandom\b|\bSystemRandom\b|np\.random\.(?!Generator\b)\w+|\bdefault_rng\b"
)
PUBLIC = "public by design: chosen without the data and written down"
STARTER = "a task file for newcomers, to be changed: made-up data, and a training that stands for theirs"
MEASURED = "coins of an audit or experiment, reported with its seed: no release is made of them"
UNPROVEN = (
    "perturbations and labels of a heuristic, of which nothing is proven; torch's global coins, forked from the run's"
)
ORDERED = "orders of batches, initialisation, dropout: the theorems hold for any that ignore the forgotten data"
# file -> what it draws, and why it need not come from the room
LISTED: dict[str, tuple[set[str], str]] = {
    "randomness/secret.py": ({"urandom", "torch.randint"}, "the room itself: keys"),
    "randomness/generators.py": ({"torch.Generator(", "manual_seed("}, "the room itself: generators for such coins"),
    "audit/information.py": ({"np.random.Philox"}, PUBLIC),
    "attacks/arena.py": ({"torch.rand", "torch.Generator(", "manual_seed("}, MEASURED),
    "attacks/heads.py": ({"torch.rand", "torch.randn", "torch.Generator(", "manual_seed("}, MEASURED),
    "attacks/on_steps.py": ({"torch.Generator(", "manual_seed(", "np.random.default_rng"}, MEASURED),
    "attacks/on_features.py": ({"torch.Generator(", "manual_seed("}, MEASURED),
    "attacks/one_training.py": ({"torch.rand", "torch.randperm"}, MEASURED),
    "attacks/canaries_of_unlearners.py": ({"torch.Generator(", "manual_seed("}, MEASURED),
    "attacks/samples.py": ({"torch.randint", "np.random.default_rng"}, MEASURED),
    "jobs/digits_task.py": ({"torch.Generator(", "manual_seed("}, MEASURED),
    "replicates/rows.py": ({"torch.rand", "torch.randint", "torch.Generator(", "manual_seed("}, MEASURED),
    "replicates/stack.py": ({"manual_seed("}, MEASURED),
    "testing/executors.py": ({"torch.randn", "torch.Generator(", "manual_seed("}, MEASURED),
    "testing/feature_maps.py": ({"torch.randperm", "torch.Generator(", "manual_seed("}, MEASURED),
    "testing/recoveries.py": ({"torch.randint", "torch.randn", "torch.Generator(", "manual_seed("}, MEASURED),
    "features/random.py": ({"torch.randn", "torch.Generator(", "manual_seed("}, PUBLIC),
    "features/barycenter.py": ({"np.random.default_rng"}, "order of equal numbers, from the seed of a map of which nothing is proven"),
    "features/tangent.py": ({"torch.randint", "torch.randperm", "torch.Generator(", "manual_seed("}, PUBLIC),
    "features/frozen_network.py": ({"torch.rand", "torch.Generator(", "manual_seed(", "set_rng_state("}, PUBLIC),
    "training/randomness.py": (
        {
            "torch.randint", "manual_seed(", "set_rng_state(", "import random", "np.random.seed", "np.random.get_state",
            "np.random.set_state",
        },
        ORDERED,
    ),
    "data/batches.py": ({"torch.randperm", "torch.Generator(", "manual_seed("}, ORDERED),
    "data/examples.py": ({"torch.randperm"}, ORDERED),
    "cli/starters/dict.py": ({"torch.randint", "torch.Generator(", "manual_seed("}, STARTER),
    "cli/starters/tabular.py": ({"torch.Generator(", "manual_seed(", "np.random.default_rng"}, STARTER),
    "cli/starters/vision.py": ({"torch.Generator(", "manual_seed("}, STARTER),
    "unlearners/costs.py": ({"torch.Generator(", "manual_seed("}, "a rehearsal whose result is thrown away"),
    "unlearners/replay.py": ({"torch.randint"}, "the key of an experiment's trace, from its seed; a release draws a secret one"),
    "policies/cartpole.py": ({"torch.rand", "torch.randint", "torch.Generator(", "manual_seed("}, "a simulation: made-up data, and returns that are measured"),
    "policies/energies.py": ({"torch.rand", "torch.randn_like"}, ORDERED),
    "policies/persistent.py": ({"torch.rand", "torch.randperm"}, ORDERED),
    "recovery/noisy_label.py": ({"torch.randn_like"}, ORDERED),
    "unlearners/heuristics/base.py": ({"torch.randperm"}, UNPROVEN),
    "unlearners/heuristics/jit.py": ({"torch.randn_like"}, UNPROVEN),
    "unlearners/heuristics/salun.py": ({"torch.randint"}, UNPROVEN),
    "unlearners/working.py": ({"torch.Generator(", "manual_seed("}, MEASURED),
    "unlearners/dp_training.py": ({"set_rng_state("}, "dropout, from a generator of the room"),
    "trace/engine.py": ({"torch.Generator(", "manual_seed("}, "a replay draws again what the trace's key says"),
    "trace/trace.py": ({"torch.Generator(", "manual_seed("}, "a replay draws again what the trace's key says"),
}  # fmt: skip
NAMES_THEM = "fingerprint/volatile.py"  # the draws that a replay's code may not make, none of them made


def found(text: str) -> set[str]:
    """Draws in code, comments and docstrings left out as far as lines show them."""
    lines = (line.split("#")[0] for line in text.splitlines())
    return {match.lstrip(".") if match.startswith(".") else match for line in lines for match in DRAWS.findall(line)}


def test_nothing_is_drawn_outside_the_room_but_what_the_list_says() -> None:
    """Neither a new file nor a new kind of draw gets by, and no entry outlives what it excuses."""
    seen = {str(path.relative_to(SOURCE)): found(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    assert seen.pop(NAMES_THEM)
    assert {name: draws for name, draws in seen.items() if draws} == {
        name: draws for name, (draws, _) in LISTED.items()
    }


@pytest.mark.parametrize(
    "line",
    [
        "noise = torch.randn(5)", "x.normal_(generator=g)", "torch.normal(0, 1, (3,))", "import secrets", "import random",
        "from secrets import token_bytes", "os.urandom(32)", "np.random.normal()", "rng = default_rng()",
        "torch.bernoulli(p)", "theta += torch.randn_like(theta)", "g = torch.Generator()", "torch.manual_seed(0)",
    ],
)  # fmt: skip
def test_the_search_sees_a_draw(line: str) -> None:
    """Each of these in a file that is not listed turns the test above red."""
    assert found(line)
