"""What is remembered, in memory only, of the trained weights: so that none are released, and none are anything's teacher.

The theorems let the gradient be any function of the iterate and the retained data, and recovery any function of the
certified weights and these data. A function of the trained weights, or of the statistics beside them, is another one in the
world where the forgotten data never were: against it nothing is proven.
"""

import weakref
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from expunge.certificate.digests import digest_tensors, weights_tensors
from expunge.data.coverage import rows_held
from expunge.data.ids import ids_in
from expunge.errors import ModelRefused, StillRetained
from expunge.fingerprint import tensors_held
from expunge.parallel.sharding import is_sharded, whole
from expunge.training.tensors import digest_bytes, named_buffers, named_parameters

__all__ = ["STARTS", "Starts", "refuse_rows", "refuse_start", "start_digests"]

_TELLING = 16  # coordinates; that so many noised ones equal the trained ones bit for bit does not happen
_CAST = 1 << 22  # coordinates of which the digests in other types are kept, small tensors first
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def start_digests(model: nn.Module, *, public: Collection[str]) -> dict[str, frozenset[str]]:
    """Digests of the trained weights and statistics, the whole under "": for `issue` to refuse them as released ones; never written.

    Tensors that two models may well have in common (short, or of one value) count in the whole only. Of small tensors the
    digests in other types are there too: a trained model in half precision is no other model.

    Args:
        model: the trained one, before anything was reset or clipped.
        public: names of parameters and buffers that do not depend on the forgotten data.
    """
    telling = {name: t for name, t in _telling(model) if name not in public and _varies(whole(t))}
    tensors = weights_tensors(model)
    found = {t.name: {t.digest.hex()} for t in tensors if t.name in telling}
    left = _CAST
    for name, p in sorted(telling.items(), key=lambda item: item[1].numel()):
        left -= p.numel()
        if left < 0:
            break
        full = whole(p)
        lower = [full.to(kind) for kind in _FLOATS]
        found[name] |= {digest_bytes(t) for t in (*lower, *(t.float() for t in lower))}
    vectors = _of_vectors(model, telling)
    found |= {"all in one vector": vectors} if vectors else {}
    return {name: frozenset(digests) for name, digests in found.items()} | {"": frozenset({digest_tensors(tensors)})}


def _of_vectors(model: nn.Module, telling: Collection[str]) -> set[str]:
    """Of all parameters in one vector, and of the trained ones, in each type: as `parameters_to_vector` gives them.

    A vector without any parameter of `telling` depends on no forgotten row and is left out.
    """
    digests: set[str] = set()
    told = {id(p) for name, p in model.named_parameters() if name in telling}
    for chosen in (list(model.parameters()), [p for p in model.parameters() if p.requires_grad]):
        if not any(id(p) in told for p in chosen):
            continue
        if any(is_sharded(p) for p in chosen) and sum(p.numel() for p in chosen) > _CAST:
            continue  # all of them on one worker is what shards avoid
        plain = [whole(p).detach().reshape(-1) for p in chosen if not is_lazy(p)]
        if not plain or not all(p.is_floating_point() and p.layout is torch.strided and not p.is_meta for p in plain):
            continue
        own = {p.dtype for p in plain}
        kinds = _FLOATS if sum(map(len, plain)) <= _CAST else own if len(own) == 1 else ()
        digests |= {digest_bytes(*(p.to(kind) for p in plain)) for kind in kinds}
    return digests


class Starts:
    """The digests of trained weights, kept in memory for as long as the models that came from them."""

    def __init__(self) -> None:
        self._starts: weakref.WeakKeyDictionary[nn.Module, Mapping[str, Collection[str]]] = weakref.WeakKeyDictionary()

    def remember(self, model: nn.Module, start: Mapping[str, Collection[str]]) -> None:
        """Note what a model came from: digests by name, as in `RunRecord.start`."""
        self._starts[model] = start

    def start_of(self, model: nn.Module) -> Mapping[str, Collection[str]]:
        """What a model came from, as far as it is known here."""
        return self._starts.get(model, {})

    def refuse(self, held: object, model: nn.Module, *, what: str) -> None:
        """Refuse code from which the weights or statistics are reached that a model came from.

        Args:
            held: the caller's function or object, searched with closures, globals and attributes.
            model: that it will be given; its own tensors are no teacher.
            what: it is, e.g. "the loss".

        Raises:
            ModelRefused: the message names the parameter or buffer.
        """
        own = {id(tensor) for _, tensor in (*named_parameters(model), *named_buffers(model))}
        refuse_start(held, self.start_of(model), what=what, own=own)

    def refuse_outcome(self, model: nn.Module, *, what: str) -> None:
        """Refuse a model that holds weights or statistics which it came from, wherever they were brought from.

        Args:
            model: after the run.
            what: made it.

        Raises:
            ModelRefused: the message names both tensors.
        """
        names = _names(self.start_of(model))
        for name, tensor in _telling(model) if names else ():
            trained = names.get(digest_bytes(tensor))
            if trained is not None:
                raise ModelRefused(
                    f"{what} put '{trained}' of the model before unlearning into '{name}': it was not unlearned, and its release "
                    "would tell of the forgotten data. Estimate statistics again on the retained rows"
                )


def refuse_start(held: object, start: Mapping[str, Collection[str]], *, what: str, own: Collection[int] = ()) -> None:
    """Refuse code from which tensors of a start are reached, see `Starts.refuse`.

    Args:
        held: the caller's function or object.
        start: from `start_digests`.
        what: it is.
        own: ids of tensors that are no fault.
    """
    names = _names(start)
    for tensor in tensors_held(held) if names else ():
        if id(tensor) in own or not _plain(tensor):
            continue
        name = names.get(digest_bytes(tensor))
        if name is not None:
            raise ModelRefused(
                f"{what} holds the trained weights ('{name}'), as a teacher or by a name outside of it: its outcome would "
                "depend on the forgotten data in a way that no clip and no noise covers. Compute it from the model and the "
                "batch that it is given; a teacher must never have seen the forgotten data"
            )


def refuse_rows(held: object, forget: Any, *, what: str) -> None:
    """Refuse code from which forgotten rows are reached: what it computes would depend on them, and no theorem lets it.

    Args:
        held: the caller's function or object, searched with closures, globals and attributes.
        forget: the forgotten rows; None, or ids alone, where they are not known.
        what: it is, e.g. "the loss".

    Raises:
        StillRetained: rows with their content are reached.
    """
    if forget is None or ids_in(forget) is not None:
        return
    tensors = tensors_held(held)
    found = rows_held(tensors, forget) if tensors else 0  # a loader is read only where there is something to compare
    if found:
        raise StillRetained(
            f"{what} holds {found} rows with the content of rows to forget: it must read the model and the batch that it is given alone"
        )


def _names(start: Mapping[str, Collection[str]]) -> dict[str, str]:
    return {digest: name for name, digests in start.items() if name for digest in digests}


def _telling(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that are long enough to be known again."""
    for name, tensor in (*named_parameters(model), *named_buffers(model)):
        if not is_lazy(tensor) and _plain(tensor):
            yield name, tensor.detach()


def _varies(tensor: Tensor) -> bool:
    return bool((tensor != tensor.reshape(-1)[0]).any())


def _plain(tensor: Tensor) -> bool:
    return (
        tensor.is_floating_point()
        and tensor.layout is torch.strided
        and not tensor.is_meta
        and tensor.numel() >= _TELLING
    )


STARTS = Starts()
"""Of all models that this process has unlearned."""
