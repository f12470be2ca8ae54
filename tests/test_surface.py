"""What `import expunge` offers, and what it does not load."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import get_args

import pytest

import expunge
from expunge._formerly import FORMERLY


def run_python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LAYERS = [
    "accounting", "attacks", "certificate", "data", "features", "heads", "hf", "policies", "recovery", "replicates", "testing", "trace",
    "unlearners",
]  # fmt: skip
WITHOUT_TORCH = """
    import sys
    sys.modules["torch"] = None
    import expunge
"""


def test_calibrate_works_without_torch():
    code = """
    budget = expunge.Budget(epsilon=1.0, delta=1e-5)
    mechanism = expunge.calibrate(lambda s: expunge.OutputPerturbation(init_clip=0.1, noise_std=s), budget)
    print(round(mechanism.noise_std, 6))
    """
    assert run_python(WITHOUT_TORCH + code) == "0.746126"


def test_a_certificate_verifies_without_torch(tmp_path):
    code = """
    import numpy
    from safetensors.numpy import save_file
    from expunge.certificate.record import NoiseRecord
    folder = sys.argv[1]
    save_file({"w": numpy.arange(3.0)}, f"{folder}/w.safetensors")
    save_file({"w": numpy.arange(3.0) + 1}, f"{folder}/other.safetensors")
    record = expunge.RunRecord(
        mechanism=expunge.OutputPerturbation(init_clip=1.0, noise_std=2.0),
        steps_done=0,
        noise=NoiseRecord(
            count=1, std=2.0, dimension=3, self_test="passed", generator="secret", stream="aes-256-ctr/1", grid=2.0**-12
        ),
        layers=(("w", 3),), weights_dtype="float64", center="zero", buffers="none", public=(),
        certified="sha256:" + "0" * 64, coverage="ids",
    )
    expunge.issue(record, released=f"{folder}/w.safetensors").save(f"{folder}/certificate.json")
    expunge.verify(expunge.Certificate.load(f"{folder}/certificate.json"), weights=f"{folder}/w.safetensors")
    try:
        expunge.verify(f"{folder}/certificate.json", weights=f"{folder}/other.safetensors")
    except expunge.errors.WeightsMismatch:
        print("verified")
    """
    assert run_python(WITHOUT_TORCH + code, tmp_path) == "verified"


def test_a_module_at_hand_is_verified_by_whoever_has_imported_nothing_else():
    pytest.importorskip("torch")
    code = """
    import torch, expunge
    from expunge.certificate.record import NoiseRecord
    module = torch.nn.Linear(2, 1, bias=False)
    record = expunge.RunRecord(
        mechanism=expunge.OutputPerturbation(init_clip=1.0, noise_std=2.0), steps_done=0,
        noise=NoiseRecord(
            count=1, std=2.0, dimension=2, self_test="passed", generator="secret", stream="aes-256-ctr/1", grid=2.0**-12
        ),
        layers=(("weight", 2),), weights_dtype="float32", center="zero", buffers="none", public=(),
        certified="sha256:" + "0" * 64, coverage="ids",
    )
    certificate = expunge.issue(record, released=module)
    expunge.verify(certificate, weights=module)
    module.weight.data += 1
    try:
        expunge.verify(certificate, weights=module)
    except expunge.errors.WeightsMismatch:
        pass
    else:
        raise SystemExit("other weights passed")
    try:
        expunge.verify(certificate, weights=3)
    except TypeError as error:
        print(error)
    """
    told = "weights must be a safetensors path, a digest 'sha256:...', or a torch module, not int"
    assert run_python(code) == told


def test_a_name_that_needs_torch_says_how_to_install_it():
    code = """
    try:
        expunge.unlearn
    except expunge.errors.MissingExtra as error:
        print(error)
    """
    assert run_python(WITHOUT_TORCH + code) == "expunge.unlearn needs torch: pip install 'expunge[torch]'"


@pytest.mark.parametrize("module", ["torch", "scipy.stats", "scipy.optimize", "matplotlib"])
def test_import_expunge_does_not_load_heavy_modules(module):
    assert run_python("import sys, expunge; print(sys.argv[1] in sys.modules)", module) == "False"


@pytest.mark.parametrize("name", expunge.__all__)
def test_every_public_name_resolves(name):
    pytest.importorskip("torch")
    assert getattr(expunge, name) is not None


def test_public_names_are_sorted_unique_and_listed():
    assert sorted(set(expunge.__all__)) == sorted(expunge.__all__)
    assert dir(expunge) == sorted([*LAYERS, *expunge.__all__])


@pytest.mark.parametrize("layer", LAYERS)
def test_the_layers_below_the_surface_are_modules(layer):
    pytest.importorskip("torch")
    assert getattr(expunge, layer).__name__ == f"expunge.{layer}"


@pytest.mark.parametrize("name", FORMERLY)
def test_a_name_that_stood_at_the_top_once_still_resolves(name):
    pytest.importorskip("torch")
    assert name not in dir(expunge)
    found = getattr(expunge, name)
    assert all(part.__module__.startswith("expunge.") for part in get_args(found) or (found,))


def test_the_record_is_found_where_it_was_once():
    from expunge.certificate.record import RunRecord
    from expunge.record import RunRecord as before

    assert before is RunRecord is expunge.RunRecord


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'forget_everything'"):
        _ = expunge.forget_everything


CERTIFICATE = Path(__file__).parent / "certificates" / "v1" / "gradient_clipping.json"
VERIFY = """
    import sys
    from expunge.cli import main
    certificate = sys.argv[1]
    sys.argv = ["expunge", "verify", certificate]
    try:
        main()
    except SystemExit as done:
        assert not done.code
    heavy = {"numpy", "scipy", "torch", "rich", "matplotlib", "jinja2", "safetensors.numpy"}
    print(sorted(heavy & set(sys.modules)))
"""


def test_verifying_a_certificate_of_gaussian_noise_waits_for_no_heavy_library():
    assert run_python(VERIFY, CERTIFICATE).splitlines()[-1] == "[]"
