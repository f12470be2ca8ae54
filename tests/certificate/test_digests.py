"""The digest of weights is that of their bytes by name, however they come, and a file is read a piece at a time."""

import hashlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from expunge.certificate import digests
from expunge.certificate.digests import undigested, weights_digest
from expunge.errors import WeightsMismatch
from expunge.training.tensors import save_weights, tensor_infos

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.complex64: "C64",
}  # fmt: skip


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    made = {f"z{k}": (4 * torch.randn(3, 5)).to(kind) for k, kind in enumerate(TYPES) if kind is not torch.bool}
    return made | {"a bool": torch.tensor([True, False]), "é": torch.tensor(2.5), "none": torch.zeros(0, 4)}


def by_hand(held: dict[str, Tensor]) -> str:
    """The digest as docs/certificate.md says it."""
    total = hashlib.sha256(b"expunge.weights/1\n")
    for name in sorted(held):
        t = held[name]
        content = t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
        shape = ",".join(map(str, t.shape))
        total.update(f"{len(name.encode())}:{name}|{TYPES[t.dtype]}|{shape}|{len(content)}\n".encode())
        total.update(hashlib.sha256(content).digest())
    return f"sha256:{total.hexdigest()}"


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_a_file_a_module_and_tensors_have_one_digest_in_every_type(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_PIECE", piece)
    held = tensors()
    model = nn.Module()
    for k, tensor in enumerate(held.values()):
        model.register_buffer(f"b{k}", tensor)
    expected = by_hand({f"b{k}": tensor for k, tensor in enumerate(held.values())})
    assert weights_digest(model) == expected
    assert save_weights(model, tmp_path / "model.safetensors") == expected
    assert weights_digest(tmp_path / "model.safetensors") == expected
    safetensors.torch.save_file(dict(reversed(held.items())), tmp_path / "other", metadata={"any": "thing"})
    assert weights_digest(tmp_path / "other") == by_hand(held) == digests.digest_tensors(tensor_infos(held))
    assert undigested(tmp_path / "other") == "metadata {'any': 'thing'}"
    changed = held["z1"].view(torch.uint8)
    changed[-1, -1] ^= 1
    safetensors.torch.save_file(held, tmp_path / "changed")
    assert weights_digest(tmp_path / "changed") == by_hand(held) != weights_digest(tmp_path / "other")


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(10**7)}, tmp_path / "large")
    weights_digest(tmp_path / "large")
    tracemalloc.start()
    weights_digest(tmp_path / "large")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3 << 20


def written(path: Path, header: Any, size: int) -> Path:
    told = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(told).to_bytes(8, "little") + told + bytes(size))
    return path


def entry(begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


BAD = {
    "twice": (b'{"a":' + json.dumps(entry(0, 4)).encode() + b',"a":' + json.dumps(entry(0, 4)).encode() + b"}", 4),
    "a hole": ({"a": entry(0, 4), "b": entry(6, 8)}, 8),
    "an overlap": ({"a": entry(0, 4), "b": entry(2, 8)}, 8),
    "bytes after the last": ({"a": entry(0, 4)}, 9),
    "bytes that lack": ({"a": entry(0, 4)}, 3),
    "another size": ({"a": entry(0, 4) | {"shape": [5]}}, 4),
    "no JSON": (b"nothing", 0),
    "a list": ([1, 2], 0),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_whose_header_does_not_say_every_byte_once_is_refused(case: str, tmp_path: Path) -> None:
    header, size = BAD[case]
    with pytest.raises(WeightsMismatch, match="not a whole safetensors file"):
        weights_digest(written(tmp_path / "bad", header, size))


def test_the_files_of_those_tests_are_read_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert weights_digest(written(tmp_path / "good", {"a": entry(0, 4), "b": entry(4, 8)}, 8)).startswith("sha256:")


def test_a_file_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header that is checked and the bytes that are digested would be of two files."""
    path, check = written(tmp_path / "one", {"a": entry(0, 4)}, 4), digests.safetensors.safe_open

    def replaced(*given: Any, **named: Any) -> Any:
        written(tmp_path / "two", {"b": entry(0, 8)}, 8).replace(path)
        return check(*given, **named)

    monkeypatch.setattr(digests.safetensors, "safe_open", replaced)
    with pytest.raises(WeightsMismatch, match="was replaced while it was read"):
        weights_digest(path)
