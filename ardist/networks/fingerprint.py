"""The fingerprint of a network's state, which must match when weights are loaded."""

import hashlib

import torch
from torch import Tensor

from ardist.factorization import Factorization
from ardist.shapes import shortened


def fingerprint(factorization: Factorization, any_length: bool = False) -> dict[str, list[str]]:
    """The properties of a factorization that give weights their meaning, by name; see `entry`.

    Args:
        factorization: the network's factorization.
        any_length: whether the network supports any length. The fingerprint then contains only the
            properties that all lengths share.
    """
    partition, ordering = factorization.partition, factorization.ordering
    families, names = factorization.families, factorization.names
    elements, order = factorization.blocks.elements, factorization.order_key
    partition_keys: list[object] = [elements]
    ordering_keys: list[object] = [order]
    if any_length:
        partition_keys = ["in order" if factorization.is_in_order else elements, vars(partition)]
        raster = torch.arange(factorization.num_blocks, device=order.device)
        is_raster = torch.equal(order.flatten(), raster)
        ordering_keys = ["raster" if is_raster else order, vars(ordering)]
    return {
        **({} if any_length else {"grid_shape": entry(tuple(factorization.grid_shape))}),
        "families": entry(shortened(families), families),
        "names": entry(names and shortened(names), names),
        "partition": entry(repr(partition), *partition_keys),
        "ordering": entry(repr(ordering), *ordering_keys),
    }


def entry(shown: object, *keys: object) -> list[str]:
    """One entry of a fingerprint: a short text and a digest of each key.

    Two entries agree if they share a digest.

    Args:
        shown: gives the short text, for error messages.
        keys: tensors, or objects with a full repr; `shown` by default.
    """
    text = str(shown)
    text = text if len(text.encode()) <= 64 else text.encode()[:61].decode(errors="ignore") + "..."
    digests = []
    for key in keys or (shown,):
        raw = key.cpu().numpy().tobytes() if isinstance(key, Tensor) else repr(key).encode()
        digests.append(hashlib.sha256(raw).hexdigest()[:16])
    return [text, *digests]
