"""The time that a distribution adds to the scoring of a network's outputs."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from harness import Case
from torch import Tensor

import ardist as ad
from ardist import families as fam
from ardist import networks


class Constant(networks.ConditionalNetwork):
    """A network that costs nothing, to time the code around it."""

    def __init__(self, factorization: ad.Factorization, params: Tensor) -> None:
        super().__init__(factorization)
        self.params = params

    def forward(self, blocks: Tensor, context: object = None, ranks: object = None) -> Tensor:
        return self.params


def scoring() -> Iterator[Case]:
    logits, x = torch.randn(64, 784, 256), torch.randint(256, (64, 784))
    net = Constant(ad.Factorization(784, fam.Categorical(256)), logits)
    yield "scoring (64, 784, 256) logits", (lambda: net.condition().log_prob(x)), {
        "F.cross_entropy": lambda: F.cross_entropy(
            logits.view(-1, 256), x.view(-1), reduction="none"
        ).view(64, 784).sum(-1)
    }, ">= 0.91 (at most 1.1 times its time)"  # fmt: skip
