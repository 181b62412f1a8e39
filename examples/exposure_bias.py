"""The cost of teacher forcing, and scheduled sampling: a motif that is repeated, with wrong notes.

The true distribution is known, so the nats lost on prefixes from data and on a model's own samples
can be computed. Takes two minutes with one thread. Needs tqdm.
"""

import argparse
import math

import torch
from torch import Tensor, nn

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.training import exposure_bias, scheduled_log_prob

MOTIFS = torch.tensor([[0, 1, 2, 3], [0, 2, 1, 3], [3, 1, 0, 2]])
LENGTH, WRONG = 24, 0.04


class Motifs(networks.ConditionalNetwork):
    """One of three motifs is repeated; each note is wrong with a probability of 0.04."""

    def forward(
        self, blocks: Tensor, context: Tensor | None = None, ranks: Tensor | None = None
    ) -> Tensor:
        notes = MOTIFS[:, torch.arange(LENGTH) % 4]  # (motifs, T)
        odds = torch.full((3, LENGTH, 4), WRONG / 3).scatter_(2, notes.unsqueeze(-1), 1 - WRONG)
        seen = odds.log().gather(2, blocks.T.expand(3, -1, -1))  # (motifs, T, N)
        motif = (seen.cumsum(1) - seen).log_softmax(0)  # given the notes so far
        return (motif.permute(2, 1, 0).unsqueeze(-1) + odds.log().permute(1, 0, 2)).logsumexp(2)


class Scheduled(nn.Module):
    """Scheduled sampling, with a probability that grows over the first half of the steps."""

    def __init__(self, net: networks.RNN, probability: float, steps: int) -> None:
        super().__init__()
        self.net, self.probability, self.steps, self.step = net, probability, steps, 0

    def forward(self, x: Tensor) -> Tensor:
        now = self.probability * min(1.0, 2 * self.step / self.steps)
        self.step += 1
        return scheduled_log_prob(self.net.condition(), x, now)


def fit(x: Tensor, probability: float, args: argparse.Namespace) -> ad.AutoregressiveDistribution:
    torch.manual_seed(args.seed)
    net = networks.RNN(ad.Factorization(LENGTH, fam.Categorical(4)), hidden_size=48)
    model = Scheduled(net, probability, args.steps)
    options = {"valid": None, "batch_size": 64, "lr": 3e-3, "seed": args.seed}
    ad.training.fit(model, x, max_epochs=math.ceil(args.steps * 64 / len(x)), **options)
    return net.condition()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    truth = Motifs(ad.Factorization(LENGTH, fam.Categorical(4))).condition()
    train, test = truth.sample((3000,)), truth.sample((1000,))
    print("nats lost in a sequence of 24 notes, on prefixes of")
    print(f"{'':43}{'data':>10}{'its own':>9}{'draws under the truth':>24}")
    for count, probability in ((300, 0.0), (300, 0.25), (300, 0.5), (3000, 0.0)):
        p = fit(train[:count], probability, args)
        lost = exposure_bias(p, test, truth)
        forcing = f"own notes up to {probability}" if probability else "teacher forcing"
        drawn = truth.log_prob(p.sample((1000,))).mean()
        print(
            f"{count:>5} sequences, {forcing:<26}{lost.on_data.sum():10.3f}"
            f"{lost.on_own.sum():9.3f}{drawn:24.3f}"
        )
    print(f"{'the truth itself':<43}{0:10.3f}{0:9.3f}{truth.log_prob(test).mean():24.3f}")


if __name__ == "__main__":
    main()
