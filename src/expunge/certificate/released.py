"""Whether weights at hand are made of what a run's record speaks of, tensor by tensor."""

import os
from collections.abc import Sequence

from expunge.certificate.digests import (
    TensorInfo,
    digest_tensors,
    is_digest,
    undigested,
    weights_digest,
    weights_tensors,
)
from expunge.certificate.format import Certificate, version_of
from expunge.certificate.record import RunRecord
from expunge.errors import ClaimRefused, RunError, WeightsMismatch

__all__ = ["digest_to_release", "verify_weights"]

_SAFETENSORS = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16"}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def verify_weights(certificate: Certificate, weights: object, certified_weights: object) -> None:
    """Hold weights at hand against a certificate's digests and against what its run covered, tensor by tensor.

    Raises:
        ClaimRefused: the certificate names two certified weights.
        WeightsMismatch: the weights are others, or hold what the run did not cover.
    """
    content, record = certificate.content, certificate.record
    if content["weights"]["certified"] != record.certified:
        raise ClaimRefused("weights.certified is not the digest that the run recorded")
    for name, given in {"released": weights, "certified": certified_weights}.items():
        if given is None:
            continue
        stated: str = content["weights"][name]
        tensors, found = _read(given)
        if found != stated:
            raise WeightsMismatch(f"these are not the {name} weights: their digest is {found}, not {stated}")
        against = _fault(record, given, tensors, version=version_of(content) or 2, certified=stated == record.certified)
        if against is not None:
            raise WeightsMismatch(f"the {name} weights are not what the run certified: {against}")


def digest_to_release(record: RunRecord, released: object) -> str:
    """The digest of weights to be released, which `verify` will accept and which are not the trained ones.

    Raises:
        RunError: they hold other tensors than the run covered, or those of the model before the run.
    """
    tensors, found = _read(released)
    slip = _is_the_start(record, tensors, found)
    if slip is not None:
        raise RunError(
            f"{slip}: nothing was unlearned in it. Release the model that unlearn returned, or what was made of it"
        )
    against = _fault(record, released, tensors, version=2, certified=found == record.certified)
    if against is not None:
        raise RunError(f"the weights to be released are not made of what the run covered: {against}")
    return found


def _read(weights: object) -> tuple[tuple[TensorInfo, ...] | None, str]:
    """What they hold, unless only their digest is given; and the digest."""
    tensors = None if is_digest(weights) else weights_tensors(weights)
    return tensors, weights_digest(weights) if tensors is None else digest_tensors(tensors)


def _fault(
    record: RunRecord, weights: object, tensors: Sequence[TensorInfo] | None, *, version: int, certified: bool
) -> str | None:
    """What speaks against weights at hand as those of the record; None where nothing does, or only a digest is known.

    They must be the covered layers and the estimated buffers, each in its size, and beside them public parts and empty
    tensors only; a file holds nothing outside its tensors. Weights that are the certified ones have the run's dtype too; a recovery may end in
    another (a release in half precision).

    Args:
        record: of the run.
        weights: a module, a safetensors path, or a digest.
        tensors: of the file or module; None for a digest.
        version: of the certificate's schema. Schema 1 does not name estimated buffers: there the usual names of running
            statistics pass where buffers were reset; recovered weights and records without noise are told by their digest
            alone, and metadata passes.
        certified: whether they are the weights at the end of the mechanism.
    """
    if tensors is None or (version == 1 and (record.noise.count == 0 or not certified)):
        return None
    return _misfit(record, tensors, version=version, certified=certified) or (_beside(weights) if version > 1 else None)


def _misfit(record: RunRecord, tensors: Sequence[TensorInfo], *, version: int, certified: bool) -> str | None:
    held = {tensor.name: tensor for tensor in tensors}
    layers = dict(record.layers)
    for name in (*layers, *record.estimated):
        if name not in held:
            return f"'{name}' is missing"
    for name, size in layers.items():
        if held[name].size != size:
            return f"'{name}' has {held[name].size} coordinates, and the run covered {size}"
        expected = _SAFETENSORS.get(record.weights_dtype)
        if certified and expected is not None and held[name].dtype != expected:
            return f"'{name}' is {held[name].dtype}, and the run's weights are {record.weights_dtype}"
    known = {*layers, *record.estimated, *record.public}
    bits = {(held[name].dtype, held[name].shape, held[name].digest) for name in layers}
    for name in held.keys() - known:
        if version > 1 and (held[name].dtype, held[name].shape, held[name].digest) in bits:
            continue  # another name of a covered parameter (tied): it adds nothing
        if held[name].size and not (
            version == 1 and record.buffers == "reset" and name.rpartition(".")[2] in _STATISTICS
        ):
            return f"'{name}' is neither covered by the noise, nor estimated again, nor declared public"
    return None


def _beside(weights: object) -> str | None:
    if not isinstance(weights, (str, os.PathLike)):
        return None
    found = undigested(weights)
    return None if found is None else f"the file holds {found}, which no digest covers: save the tensors alone"


def _is_the_start(record: RunRecord, tensors: Sequence[TensorInfo] | None, digest: str) -> str | None:
    """What of the weights to be released is still the trained model's, bit for bit; None where nothing is, or is known."""
    if not record.start:
        return None
    if digest in record.start[""]:
        return "the weights are those of the model before the run"
    for tensor in tensors or ():
        if tensor.digest.hex() in record.start.get(tensor.name, ()):
            return f"'{tensor.name}' is that of the model before the run, bit for bit or in another type"
    return None
