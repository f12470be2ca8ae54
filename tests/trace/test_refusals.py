"""What a trace refuses, with the reason, and without a change to any file."""

import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import expunge as ex
from expunge.errors import OutputError, StateError
from expunge.fingerprint import code_digest
from expunge.trace import Trace, cost


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Trained once; every test gets a copy of the folder."""
    return tmp_path_factory.mktemp("trained") / "trace"


@pytest.fixture
def trace(small, trained, tmp_path):
    if not trained.exists():
        small.train(trained)
    shutil.copytree(trained, tmp_path / "trace")
    return Trace(tmp_path / "trace", key=small.key)


@pytest.fixture
def refused(tmp_path, snapshot, small, trace):
    """Call a rewind that must be refused, and hold the folder against what it was."""

    def check(error, reason, ids=("patient 7",), task=small, data=None):
        before = snapshot(tmp_path / "trace")
        with pytest.raises(error, match=reason):
            task.rewind(trace, list(ids), data)
        assert snapshot(tmp_path / "trace") == before

    return check


def test_unknown_records_are_refused(refused):
    refused(ValueError, "record 'stranger' is not in the trace", ids=["patient 7", "stranger"])


def test_records_forgotten_before_are_refused(refused, small, trace):
    small.rewind(trace, ["patient 7"])
    refused(ValueError, "record 'patient 7' was forgotten before", ids=["patient 8", "patient 7"])
    with pytest.raises(ValueError, match="was forgotten before"):
        cost(trace, ["patient 7"])


@pytest.mark.parametrize(
    ("ids", "error", "reason"),
    [
        ([], ValueError, "at least one record"),
        (["patient 7", "patient 7"], ValueError, "'patient 7' twice"),
        ([7], TypeError, "must be strings"),
    ],
)
def test_ids_that_name_nothing_sensible_are_refused(refused, ids, error, reason):
    refused(error, reason, ids=ids)


def test_a_single_string_is_not_taken_for_a_list_of_letters(small, trace):
    with pytest.raises(TypeError, match="several names"):
        cost(trace, "patient 7")


@pytest.mark.parametrize("column", [0, 1])
def test_a_changed_row_is_refused_by_name(refused, small, column):
    x, y = (t.clone() for t in small.data.tensors)
    (x, y)[column][11] += 1
    refused(StateError, "record 'patient 11' is not what it was", data=ex.Examples(x, y, ids=small.data.ids))


def test_rows_under_each_others_names_are_refused(refused, small):
    ids = list(small.data.ids)
    ids[3], ids[4] = ids[4], ids[3]
    refused(StateError, "is not what it was", data=ex.Examples(*small.data.tensors, ids=ids))


def test_a_change_of_a_row_that_is_being_forgotten_does_not_matter(small, trace, tmp_path, same):
    x, y = (t.clone() for t in small.data.tensors)
    x[7] = torch.nan
    done = small.rewind(trace, ["patient 7"], ex.Examples(x, y, ids=small.data.ids))
    assert same(done.model, small.train(tmp_path / "fresh", small.without("patient 7")).model(small.make_model))


def test_data_of_another_type_are_refused(refused, small):
    refused(
        StateError,
        "is not what it was",
        data=ex.Examples(small.data.tensors[0].double(), small.data.tensors[1], ids=small.data.ids),
    )


def test_data_that_lack_a_record_are_refused(refused, small):
    refused(ValueError, "data lack 1 of the 239 records that remain", data=small.without("patient 9"))


def test_data_with_a_new_record_are_refused(refused, small):
    x, y = small.data.tensors
    more = ex.Examples(torch.cat([x, x[:1]]), torch.cat([y, y[:1]]), ids=[*small.data.ids, "newcomer"])
    refused(ValueError, "'newcomer', which the trace does not know", data=more)


def test_repeated_ids_are_refused(refused, small, tmp_path):
    with pytest.raises(ValueError, match="takes example 5 twice"):
        small.data.take([*range(240), 5])
    twice = small.data.take(range(240))
    twice.ids[7] = twice.ids[5]  # past the door
    refused(ValueError, "must be distinct", data=twice)
    with pytest.raises(ValueError, match="'patient 5' names two records"):
        small.train(tmp_path / "other", twice)


def other_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)


def smoothing(amount):
    return lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=amount)


def wider():
    return nn.Sequential(nn.Linear(64, 17), nn.BatchNorm1d(17), nn.ReLU(), nn.Dropout(0.3), nn.Linear(17, 10))


def more_dropout():
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 10))


def test_other_code_is_refused_by_name(refused, small):
    refused(StateError, "loss is not the one", task=small.but(loss=other_loss))
    refused(StateError, "make_model is not the one", task=small.but(make_model=wider))
    refused(StateError, "make_model is not the one", task=small.but(make_model=more_dropout))
    refused(StateError, "augment is not the one", task=small.but(augment=None))
    refused(StateError, "augment is not the one", task=small.but(augment=lambda batch, generator: batch))


def test_a_constant_that_a_function_encloses_is_part_of_the_code(small, tmp_path):
    task = small.but(loss=smoothing(0.1))
    trace = task.train(tmp_path / "closed")
    with pytest.raises(StateError, match="loss is not the one"):
        small.but(loss=smoothing(0.2)).rewind(trace, ["patient 7"])
    small.but(loss=smoothing(0.1)).rewind(trace, ["patient 7"])  # another object, the same code


class Net(nn.Module):
    """A network whose forward calls a method of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.squash(self.layer(x))

    def squash(self, x):
        return torch.tanh(x)


def squash_otherwise(self, x):
    return torch.relu(x)


def test_methods_of_the_networks_class_are_part_of_the_code(small, tmp_path, monkeypatch):
    task = small.but(make_model=Net, augment=None)
    trace = task.train(tmp_path / "net")
    with monkeypatch.context() as patch:
        patch.setattr(Net, "squash", squash_otherwise)
        with pytest.raises(StateError, match="make_model is not the one"):
            task.rewind(trace, ["patient 7"])
    task.rewind(trace, ["patient 7"])


def with_criterion(criterion):
    return lambda model, batch: criterion(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    "other",
    [
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0)),
        nn.MultiMarginLoss(),
    ],
)
def test_settings_and_weights_of_a_criterion_are_part_of_the_code(small, tmp_path, other):
    trace = small.but(loss=with_criterion(nn.CrossEntropyLoss())).train(tmp_path / "criterion")
    with pytest.raises(StateError, match="loss is not the one"):
        small.but(loss=with_criterion(other)).rewind(trace, ["patient 7"])
    small.but(loss=with_criterion(nn.CrossEntropyLoss())).rewind(trace, ["patient 7"])


def test_arguments_bound_by_partial_and_attributes_of_objects_are_part_of_the_code():
    class Loss:
        def __init__(self, scale):
            self.scale = scale

        def __call__(self, model, batch):
            return self.scale * helper(model, batch)

    assert code_digest(Loss(1.0)) == code_digest(Loss(1.0)) != code_digest(Loss(2.0))
    assert (
        code_digest(partial(smoothing, 1)) == code_digest(partial(smoothing, 1)) != code_digest(partial(smoothing, 2))
    )
    assert code_digest(Loss(1.0).__call__) != code_digest(Loss(2.0).__call__)
    weights = [torch.ones(3), torch.zeros(3)]
    assert code_digest(Loss(weights[0])) != code_digest(Loss(weights[1]))


SCALE = 2.0


def scaled(model, batch):
    return SCALE * helper(model, batch)


def helper(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def other_helper(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1]) + 0


def test_helpers_and_constants_of_the_same_module_are_part_of_the_code(small, tmp_path, monkeypatch):
    task = small.but(loss=scaled)
    trace = task.train(tmp_path / "scaled")
    for name, value in (("SCALE", 3.0), ("helper", other_helper)):
        with monkeypatch.context() as patch:
            patch.setitem(globals(), name, value)
            with pytest.raises(StateError, match="loss is not the one"):
                task.rewind(trace, ["patient 7"])
    task.rewind(trace, ["patient 7"])


def read_from(path):
    """A network whose bias lies in a file, which no digest of code sees."""

    def make():
        model = nn.Linear(64, 10)
        with torch.no_grad():
            model.bias.fill_(float(path.read_text()))
        return model

    return make


def test_a_network_that_starts_from_other_weights_is_refused(small, tmp_path):
    task = small.but(make_model=read_from(tmp_path / "bias"), augment=None)
    (tmp_path / "bias").write_text("0.0")
    trace = task.train(tmp_path / "given")
    (tmp_path / "bias").write_text("1.0")
    with pytest.raises(StateError, match="other initial weights"):
        task.rewind(trace, ["patient 7"])


def test_a_constant_buffer_that_no_state_dict_holds_is_part_of_the_start(small, tmp_path):
    def weighing(weight):
        """Class weights as a buffer that is not persistent, read from elsewhere."""

        def make():
            model = nn.Linear(64, 10)
            model.register_buffer("weights", torch.full((10,), float(weight.read_text())), persistent=False)
            return model

        return make

    weight = tmp_path / "weight"
    task = small.but(
        make_model=weighing(weight),
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1], weight=model.weights),
        augment=None,
    )
    weight.write_text("1")
    trace = task.train(tmp_path / "weighed")
    weight.write_text("2")
    with pytest.raises(StateError, match="other initial weights"):
        task.rewind(trace, ["patient 7"])


def test_another_machine_is_refused(refused, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        refused(StateError, "made with torch '.*', this is '9.9.9'")
    torch.set_num_threads(2)
    refused(StateError, "made with threads '1', this is '2'.*set_num_threads")


def test_a_replay_inside_of_autocast_is_refused(refused):
    """Half of the bits of every product would be others, under a certificate that says exact."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        refused(StateError, "made with autocast 'none', this is 'torch.bfloat16'")


def test_numbers_so_small_that_a_processor_may_drop_them_are_part_of_the_machine(refused):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor drops none")
    try:
        refused(StateError, "made with flush_denormal 'False', this is 'True'")
    finally:
        torch.set_flush_denormal(False)


def test_an_altered_checkpoint_is_refused(refused, small, trace, tmp_path):
    name = next(n for n in small.data.ids if cost(trace, [n]).restored > 0)
    path = tmp_path / "trace" / cost(trace, [name]).reads
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(StateError, "truncated or was altered", ids=[name])
    path.write_bytes(content[:100])
    refused(StateError, "truncated or was altered", ids=[name])
    path.unlink()
    refused(StateError, "is missing", ids=[name])


def test_another_traces_checkpoint_in_its_place_is_refused(refused, small, trace, tmp_path):
    name = next(n for n in small.data.ids if cost(trace, [n]).restored > 0)
    file = cost(trace, [name])
    missing = next(n for n in small.data.ids if cost(trace, [n]).first_use < file.restored)
    small.train(tmp_path / "other", small.without(missing))
    (tmp_path / "trace" / file.reads).write_bytes((tmp_path / "other" / file.reads).read_bytes())
    refused(StateError, "altered", ids=[name])


@pytest.mark.parametrize("field", ["version", "initial", "settings", "checkpoints"])
def test_an_altered_manifest_is_refused(refused, tmp_path, field):
    path = tmp_path / "trace" / "manifest.json"
    plain = json.loads(path.read_text())
    plain[field] = {
        "version": 5,
        "initial": "sha256:0",
        "settings": plain["settings"] | {"smallest_batch": 1},
        "checkpoints": [],
    }[field]
    path.write_text(json.dumps(plain))
    refused(StateError, "was altered, or the key is another")


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "not whole JSON"), ("[]", "JSON object"), (None, "no finished trace")]
)
def test_a_broken_manifest_is_refused(small, trace, tmp_path, text, reason):
    path = tmp_path / "trace" / "manifest.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(StateError, match=reason):
        Trace(tmp_path / "trace", key=small.key)


def flipped(content):
    return content[:40] + bytes([content[40] ^ 1]) + content[41:]


def cut_off(content):
    return content[:-4]


def reordered(content):
    """Tags of the first two records change places, with all that belongs to them."""
    parts = [bytearray(content)]
    for start, width in ((32, 16), (32 + 240 * 16, 16), (32 + 240 * 32, 4)):
        one, two = parts[0][start : start + width], parts[0][start + width : start + 2 * width]
        parts[0][start : start + 2 * width] = two + one
    return bytes(parts[0])


def swapped(content):
    """The first two records get each other's content."""
    start = 32 + 240 * 16
    return content[:start] + content[start + 16 : start + 32] + content[start : start + 16] + content[start + 32 :]


def one_fewer(content):
    """The last record is taken out of every column, and of the count."""
    columns = ((32, 239 * 16), (32 + 240 * 16, 239 * 16), (32 + 240 * 32, 239 * 4))
    return (
        content[:16] + (239).to_bytes(8, "little") + content[24:32] + b"".join(content[a : a + n] for a, n in columns)
    )


@pytest.mark.parametrize("change", [flipped, cut_off, reordered, swapped, one_fewer])
def test_an_altered_roster_is_refused(refused, trace, tmp_path, change):
    path = tmp_path / "trace" / trace.manifest.records.name
    content = path.read_bytes()
    path.write_bytes(change(content))
    assert path.read_bytes() != content
    refused(StateError, "altered")


def test_a_roster_put_back_from_before_a_request_is_refused(refused, small, trace, tmp_path):
    """Whoever was forgotten would be known again."""
    old = tmp_path / "trace" / trace.manifest.records.name
    content = old.read_bytes()
    small.rewind(trace, ["patient 7"])
    (tmp_path / "trace" / trace.manifest.records.name).write_bytes(content)
    refused(StateError, "altered", ids=["patient 8"])


def test_another_key_is_refused(trace, tmp_path):
    with pytest.raises(StateError, match="the key is another"):
        Trace(tmp_path / "trace", key=bytes(32))
    with pytest.raises(StateError, match="holds no key; pass key="):
        Trace(tmp_path / "trace")
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Trace(tmp_path / "trace", key=b"short")


def test_another_schema_is_refused(small, trace, tmp_path):
    from expunge.trace import store

    path = tmp_path / "trace" / "manifest.json"
    plain = store.read_sealed(path, small.key)
    store.write_sealed(path, plain | {"schema": "expunge.trace/99"}, small.key)
    with pytest.raises(StateError, match=r"expunge\.trace/99"):
        Trace(tmp_path / "trace", key=small.key)


def test_a_trace_of_the_first_schema_is_refused_with_the_reason(small, trace, tmp_path):
    """Its digests missed what a loss reads in module-level tensors, dictionaries and criteria."""
    from expunge.trace import store

    path = tmp_path / "trace" / "manifest.json"
    store.write_sealed(path, store.read_sealed(path, small.key) | {"schema": "expunge.trace/1"}, small.key)
    with pytest.raises(StateError, match=r"by an earlier version, whose digests of the code missed .* Train again"):
        Trace(tmp_path / "trace", key=small.key)


def test_a_folder_with_a_trace_or_other_files_is_not_overwritten(small, trace, tmp_path, snapshot):
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="holds a trace already"):
        small.train(tmp_path / "trace")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"other files \(e.g. 'thesis.tex'\)"):
        small.train(tmp_path / "other")
    (tmp_path / "other" / "thesis.tex").unlink()
    assert snapshot(tmp_path) == before


def test_two_rewinds_at_once_do_not_overwrite_each_other(small, trace, tmp_path):
    from expunge.trace.engine import Program
    from expunge.trace.rewinding import Replaying

    program = Program(make_model=small.make_model, loss=small.loss, augment=small.augment)
    slow = Replaying.prepare(trace, ["patient 1"], small.data, program)
    small.rewind(trace, ["patient 2"])
    with pytest.raises(ex.errors.RunError, match="another rewind of this trace finished meanwhile"):
        slow.run()
    assert trace.manifest.version == 1
    assert cost(trace, ["patient 1"]).total == 36


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"epochs": 0}, ValueError, "epochs must be"),
        ({"steps_per_epoch": 0}, ValueError, "steps must be"),
        ({"steps_per_epoch": (3, 3)}, ValueError, "each of 3 epochs"),
        ({"smallest_batch": 0}, ValueError, "smallest_batch must be"),
        ({"checkpoints": -1}, ValueError, "checkpoints must be"),
        ({"checkpoints": (0,)}, ValueError, "checkpoints must be"),
        ({"checkpoints": (36,)}, ValueError, "between 1 and 35"),
        ({"checkpoints": (3,), "storage": 10}, ValueError, "storage chooses"),
        ({"storage": -1}, ValueError, "storage must be"),
        ({"first_epochs": {"patient 1": 3}}, ValueError, r"first_epochs\['patient 1'\] must be below 3"),
        ({"first_epochs": {"patient 1": -1}}, ValueError, r"first_epochs\['patient 1'\] must be"),
        ({"request_weights": (1,)}, ValueError, "each of 3 epochs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(small, tmp_path, options, error, reason):
    with pytest.raises(error, match=reason):
        small.but(**options).train(tmp_path / "trace")
    assert not (tmp_path / "trace" / "manifest.json").exists()


def test_code_that_is_not_callable_and_data_without_names_are_refused(small, tmp_path):
    with pytest.raises(TypeError, match="loss must be a function"):
        replace(small, loss=3).train(tmp_path / "a")
    with pytest.raises(TypeError, match="augment must be a function"):
        replace(small, augment=3).train(tmp_path / "a")
    with pytest.raises(TypeError, match="make_model must be a function"):
        replace(small, make_model=small.make_model()).train(tmp_path / "a")
    with pytest.raises(TypeError, match="data must be Examples"):
        small.train(tmp_path / "a", small.data.tensors)
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a").iterdir())
