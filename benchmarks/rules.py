"""The cost of a rule: scores and draws of a network with and without it."""

from collections.abc import Iterator

import torch
from harness import Call, Case, random_made

import ardist as ad
from ardist import families as fam
from ardist import networks, rules

SYMBOLS = 65


def automaton(num_symbols: int, num_states: int = 16) -> rules.Automaton:
    """A random automaton, which allows most symbols in each state."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(num_states, (num_states, num_symbols), generator=generator)
    refused = torch.rand(table.shape, generator=generator) < 0.3
    refused[:, 0] = False
    return rules.Automaton(table.masked_fill(refused, -1), range(0, num_states, 2))


def with_and_without(
    what: str,
    network: networks.ConditionalNetwork,
    named: dict[str, tuple[rules.Rule, float, float]],
    rows: tuple[int, int],
) -> Iterator[Case]:
    """Cases of scoring and of sampling, with aims as multiples of the time without a rule."""
    free = network.condition()
    under = {name: free.with_rule(rule) for name, (rule, *_) in named.items()}
    x = {name: p.sample((rows[0],)) for name, p in under.items()}

    def score(p: ad.AutoregressiveDistribution, x: torch.Tensor) -> Call:
        return torch.no_grad()(lambda: p.log_prob(x))

    scores = {name: score(p, x[name]) for name, p in under.items()}
    aims = ", ".join(f"{name} {score:g} x" for name, (_, score, _) in named.items())
    some = next(iter(x.values()))
    yield f"{what}: log_prob of {rows[0]}", score(free, some), scores, f"at most {aims}"
    draws = {name: (lambda p=p: p.sample((rows[1],))) for name, p in under.items()}
    aims = ", ".join(f"{name} {draw:g} x" for name, (*_, draw) in named.items())
    yield f"{what}: sample({rows[1]})", (lambda: free.sample((rows[1],))), draws, f"at most {aims}"


def masked(logits: torch.Tensor, sums: torch.Tensor, left: int, total: int) -> torch.Tensor:
    """Draws a bit under a mask with which the bits add up to a total."""
    logits = logits.masked_fill(sums + left < total, torch.inf)
    return torch.bernoulli(logits.masked_fill(sums >= total, -torch.inf).sigmoid())


def by_decoder(network: networks.ConditionalNetwork, total: int, rows: int) -> Call:
    """A loop over the steps of our cached decoder, with masks by hand."""

    @torch.no_grad()
    def sample() -> torch.Tensor:
        count = network.factorization.num_blocks
        decoder, drawn, sums = network.decoder(rows), None, torch.zeros(rows, 1)
        pieces = []
        for step in range(count):
            logits = decoder.step(drawn).squeeze(-1)
            drawn = masked(logits, sums, count - step - 1, total)
            sums = sums + drawn
            pieces.append(drawn)
        return torch.cat(pieces, 1)

    return sample


def by_passes(network: networks.ConditionalNetwork, total: int, rows: int, steps: int) -> Call:
    """The first steps of a loop that calls the whole network at each bit, with masks by hand."""

    @torch.no_grad()
    def sample() -> torch.Tensor:
        count = network.factorization.num_blocks
        drawn = torch.zeros(rows, count)
        for step in range(steps):
            logits = network(drawn)[:, step]
            sums = drawn.sum(-1, keepdim=True)
            drawn[:, step : step + 1] = masked(logits, sums, count - step - 1, total)
        return drawn

    return sample


def made_rules() -> Iterator[Case]:
    fac = ad.Factorization(784, fam.Bernoulli())
    net = random_made(fac, hidden_features=(512, 512))
    with torch.no_grad():  # bits that are rarely one, as the pixels of digits
        for layer in (net.head, net.direct):
            layer.weight.mul_(3)
    named = {
        "Sum(392)": (rules.Sum(392), 1.5, 3.0),
        "Automaton of 16 states": (automaton(2), 3.0, 7.0),
        "End": (rules.End(1, pad=0), 1.5, 1.5),
    }
    yield from with_and_without("MADE, D=784 Bernoulli, hidden 512x512", net, named, (256, 64))
    p = net.condition().with_rule(rules.Sum(392))
    yield (
        "the same: sample(64) under Sum(392)",
        (lambda: p.sample((64,))),
        {
            "masks by hand, a pass of the network per bit": (by_passes(net, 392, 64, 28), 28.0),
            "masks by hand, ardist's decoder": by_decoder(net, 392, 64),
        },
        ">= 5 x a pass per bit",
    )


def gpt_rules() -> Iterator[Case]:
    fac = ad.Factorization(256, fam.Categorical(SYMBOLS))
    net = networks.Transformer(fac, dim=128, depth=4, heads=4, any_order=False)
    named = {"Automaton of 16 states": (automaton(SYMBOLS), 1.2, 1.2)}
    yield from with_and_without("Transformer, 256 x 65", net, named, (16, 16))
