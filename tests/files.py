"""Saved networks, and files that are changed by hand."""

import json
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ardist as ad
from ardist import saving


def small(**options):
    fac = ad.Factorization(3, ad.families.Normal())
    return ad.networks.MADE(fac, **{"hidden_features": 4, **options})


def saved(network=None):
    """Saves a network in a new file, and returns its path."""
    path = Path(tempfile.mkdtemp()) / "made.safetensors"
    ad.save(small() if network is None else network, path)
    return path


def edited(change, network=None):
    """The path of a file that was changed deliberately: its checksum matches the new content.

    Args:
        change: called with the specification, the tensors and the texts of the metadata. It changes
            them in place, or returns another specification.
    """
    path = saved(network)
    with safe_open(path, "pt") as file:
        texts = file.metadata()
    tensors, spec = load_file(path), json.loads(texts.pop("ardist.spec"))
    del texts["ardist.sha256"]
    changed = change(spec, tensors, texts)
    texts["ardist.spec"] = json.dumps(changed if isinstance(changed, dict) else spec)
    texts["ardist.sha256"] = saving._digest(texts, tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, texts)
    return path


def with_bytes(content):
    """The path of a file with this content."""
    path = saved()
    path.write_bytes(content)
    return path


def with_header(text):
    """The path of a file with a header that is written by hand, and no tensors."""
    return with_bytes(len(text.encode()).to_bytes(8, "little") + text.encode())


def pickled():
    path = saved()
    torch.save(small().state_dict(), path)
    return path
