"""Initial weights of networks compared with torch's: `python benchmarks/starts.py`.

`fit` starts `MADE` at the marginals of the data, with outputs that depend on nothing. `RNN` starts
with orthogonal weights of its state. torch starts with random weights in all layers. The data are
the digits that ship with scikit-learn. The numbers are mean nats of a validation image after each
third of the training. Needs the extra `examples`.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import ardist as ad
from ardist import families, networks

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from digits import load

SEEDS = 2
TRAINING = {"batch_size": 64, "max_epochs": 18, "patience": None, "progress": False}
NETWORKS: dict[str, tuple[Callable[..., networks.ConditionalNetwork], float]] = {
    "MADE": (networks.MADE, 1e-3),
    "RNN": (partial(networks.RNN, hidden_size=128), 5e-3),  # and the learning rate
}


def main() -> None:
    torch.set_num_threads(1)
    train, valid, _ = (images.flatten(1) for images in load())
    factorization = ad.Factorization(64, families.Categorical(17))
    thirds = [TRAINING["max_epochs"] * part // 3 - 1 for part in (1, 2, 3)]
    print(f"{'network':<9}{'start':<11}{'seed':<6}{'1/3':>8}{'2/3':>8}{'3/3':>8}{'seconds':>9}")
    for seed in range(SEEDS):
        for name, (make, lr) in NETWORKS.items():
            for start in ("torch", "ardist"):
                torch.manual_seed(seed)
                network, began = make(factorization), time.process_time()
                if start == "torch":
                    network.starts_at_data = False
                    for layer in network.modules():
                        if isinstance(layer, (torch.nn.Linear, torch.nn.RNNBase)):
                            layer.reset_parameters()
                options = {**TRAINING, "lr": lr, "seed": seed}
                history = ad.training.fit(network, train, valid=valid, **options)
                nats = "".join(f"{history.valid[epoch]:8.2f}" for epoch in thirds)
                seconds = time.process_time() - began
                print(f"{name:<9}{start:<11}{seed:<6}{nats}{seconds:9.1f}", flush=True)


if __name__ == "__main__":
    main()
