"""What a replay must have in common with the training: code, data, and the machine."""

import functools
import hashlib
import inspect
import os
import platform
import types
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from expunge.data import Examples
from expunge.record import weights_digest
from expunge.trace.schedule import keyed

__all__ = ["code_digest", "machine", "model_code", "name_tag", "repeatable", "row_digests"]

_PLAIN = (int, float, complex, str, bytes, bool, type(None))
_ROWS = 4096  # rows turned into bytes at a time


def name_tag(key: bytes, name: str) -> str:
    """A keyed digest of a record's name, 32 hexadecimal digits; it tells nothing to whoever lacks the key."""
    return keyed(key, "name", name.encode())[:16].hex()


def row_digests(key: bytes, data: Examples) -> list[str]:
    """A keyed digest of each record's content, 32 hexadecimal digits; dtype and shape count."""
    head = "|".join(f"{t.dtype}{tuple(t.shape[1:])}" for t in data.tensors).encode() + b"\0"
    found: list[str] = []
    for start in range(0, len(data), _ROWS):
        parts = [_bytes_of(t[start : start + _ROWS]) for t in data.tensors]
        rows = torch.cat(parts, dim=1).numpy()
        found.extend(keyed(key, "row", head + row.tobytes())[:16].hex() for row in rows)
    return found


def _bytes_of(rows: Tensor) -> Tensor:
    return rows.detach().cpu().reshape(len(rows), -1).contiguous().view(torch.uint8)


def machine(device: torch.device) -> dict[str, str]:
    """What decides the bits of a step: versions, processor, number of threads."""
    found = {
        "torch": torch.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),  # bytecode, hence code digests, follow it
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "device": device.type,
        "default_dtype": str(torch.get_default_dtype()),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": str(torch.backends.mkldnn.enabled),
    }
    if device.type == "cuda":
        found["device"] = f"cuda {torch.cuda.get_device_name(device)}"
        found["cublas_workspace"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")
        found["tf32"] = str(torch.backends.cuda.matmul.allow_tf32)
    return found


@contextmanager
def repeatable() -> Generator[None]:
    """Have torch refuse kernels that it knows not to repeat; what was set before comes back."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark


def model_code(model: nn.Module) -> str:
    """A digest of a model's structure, of its modules' plain attributes, and of their own classes' code."""
    total = hashlib.sha256()
    for name, module in model.named_modules():
        plain = {
            k: v for k, v in sorted(vars(module).items()) if isinstance(v, _PLAIN) and k[0] != "_" and k != "training"
        }
        total.update(f"{name}|{type(module).__qualname__}|{module.extra_repr()}|{plain}\n".encode())
        for part in _class_code(type(module), {}):
            total.update(f"{len(part)}:{part}".encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|{tensor.requires_grad}\n".encode())
    return total.hexdigest()


def code_digest(code: object) -> str:
    """A digest of a function's bytecode, constants, defaults and closure, and of the functions of its module it calls.

    It follows functions and methods, `functools.partial`, modules of torch with their weights, and other objects with their
    attributes and their classes' methods. It cannot see into libraries or functions of other modules.
    """
    total = hashlib.sha256()
    for part in _parts(code, {}):
        total.update(f"{len(part)}:{part}".encode())
    return total.hexdigest()


def _parts(value: object, seen: dict[int, object]) -> Iterator[str]:
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    if id(value) in seen:
        return
    seen[id(value)] = value  # kept, so that no later object takes its id
    if isinstance(value, tuple | list | frozenset | set):
        items = cast("Sequence[object]", sorted(value, key=repr) if isinstance(value, frozenset | set) else value)
        yield f"{type(value).__name__} of {len(items)}"
        for item in items:
            yield from _parts(item, seen)
    elif isinstance(value, dict):
        yield from _parts(list(cast("dict[object, object]", value).items()), seen)
    elif isinstance(value, Tensor):
        yield (
            f"{value.dtype}{tuple(value.shape)}"
            + hashlib.sha256(_bytes_of(value.reshape(1, -1)).numpy().tobytes()).hexdigest()
        )
    elif isinstance(value, functools.partial):
        made = cast("functools.partial[Any]", value)
        yield from _parts([made.func, made.args, made.keywords], seen)
    elif isinstance(value, types.MethodType):
        yield from _parts([value.__func__, value.__self__], seen)
    elif isinstance(value, types.FunctionType):
        yield from _function(value, seen)
    elif isinstance(value, type) or inspect.isbuiltin(value) or inspect.ismodule(value):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', ''))}"
    elif isinstance(value, nn.Module):
        yield model_code(value) + weights_digest(value)
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}"
        yield from _class_code(type(value), seen)
        yield from _parts(dict(sorted(getattr(value, "__dict__", {}).items())), seen)


def _class_code(kind: type, seen: dict[int, object]) -> Iterator[str]:
    """The methods of a class and its bases, as far as they are not a library's."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] not in ("torch", "builtins"):
            for name, method in sorted(vars(base).items()):
                if isinstance(method, types.FunctionType):
                    yield name
                    yield from _parts(method, seen)


def _function(function: types.FunctionType, seen: dict[int, object]) -> Iterator[str]:
    yield from _code(function.__code__)
    yield from _parts([function.__defaults__, function.__kwdefaults__], seen)
    for cell in function.__closure__ or ():
        yield from _parts(_content(cell), seen)
    for name in _names(function.__code__):
        used = function.__globals__.get(name)
        if isinstance(used, types.FunctionType) and used.__module__ == function.__module__:
            yield from _parts(used, seen)
        elif name in function.__globals__ and isinstance(used, (*_PLAIN, tuple)):
            yield name
            yield from _parts(used, seen)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet: a function that refers to itself
        return None


def _code(code: types.CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        else:
            yield repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)


def _names(code: types.CodeType) -> list[str]:
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names(c)]
    return sorted({*code.co_names, *inner})
