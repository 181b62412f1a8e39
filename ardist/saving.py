import json, torch
from safetensors.torch import save_file
def save(network, path, *, metadata=None): save_file(network.state_dict(), path, metadata=dict(metadata))
def load(path, *, classes=()): raise ValueError("interim")
