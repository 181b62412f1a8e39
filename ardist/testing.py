"""Checks of networks and distributions: of ours, and of those that users write."""

import copy
import math
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Size, Tensor, nn
from torch.distributions import biject_to, constraints

from ardist.decoding import Decoder
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.joint import Joint, unwrap
from ardist.layout import Layout
from ardist.shapes import as_integer, as_positive, as_tolerance, check_type

__all__ = [
    "CheckError",
    "Reach",
    "check_autoregressive",
    "check_decoder",
    "check_normalized",
    "check_shapes",
]

_ROWS_AT_ONCE = 4096


class CheckError(AssertionError, ValueError):
    """What a check found wrong.

    >>> import ardist as ad
    >>> issubclass(ad.testing.CheckError, AssertionError)
    True
    """


@dataclass(frozen=True)
class Reach:
    """What `check_autoregressive` found: which block's parameters react to what.

    Attributes:
        influence: (num_blocks, num_blocks) bool: the block of the row reacts to the other one.
        reach: the share of allowed dependencies that are really there; 1.0 where none is allowed.
        context_reach: the share of blocks that react to the context; None without one.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Bernoulli()), hidden_features=8)
    >>> ad.testing.check_autoregressive(net).influence
    tensor([[False, False, False],
            [ True, False, False],
            [ True,  True, False]])
    """

    influence: Tensor
    reach: float
    context_reach: float | None


def check_autoregressive(
    network: nn.Module,
    context: Tensor | None = None,
    *,
    factorization: Factorization | None = None,
    num_draws: int = 4,
    seed: int = 0,
) -> Reach:
    """Changes one block at a time and looks at which conditionals react.

    It works for discrete and continuous blocks alike, on a copy of the network in float64 and
    in evaluation mode, around `num_draws` random events.

    Args:
        network: a conditional network.
        context: one context or several, (*batch_shape, *context_shape); the first one is used.
        factorization: in place of the network's own.

    Raises:
        CheckError: where a conditional reacts to a block that it may not depend on; it names
            both. It is an AssertionError and a ValueError.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(5, ad.families.Normal()), hidden_features=(64,))
    >>> ad.testing.check_autoregressive(net).reach
    1.0
    """
    Joint(network, factorization, context)  # raises what does not fit
    num_draws, seed = as_positive(num_draws, "num_draws"), as_integer(seed, "seed")
    net = copy.deepcopy(unwrap(network)).double().eval()
    fac = factorization or net.factorization
    layout, count = fac.layout, fac.num_blocks
    ranks = None if factorization is None else fac.ranks.flatten()
    if context is not None:
        context = context.reshape(-1, *net.context_shape)[:1].double()
    owner = torch.repeat_interleave(torch.tensor(layout.sizes["param"]))  # of each parameter
    influence = torch.zeros(count, count, dtype=torch.bool)
    reacts = torch.zeros(count, dtype=torch.bool)
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        with torch.no_grad():
            for _ in range(num_draws):
                base, other = _two_events(layout)
                first = net(base, context, ranks)
                for start in range(0, count, 64):
                    blocks = list(range(start, min(start + 64, count)))
                    changed = torch.cat(
                        [
                            layout.put(base, [block], layout.take("value", other, [block]))
                            for block in blocks
                        ]
                    )
                    influence[:, blocks] |= _reactions(net(changed, context, ranks), first, owner).T
                if context is not None:
                    moved = net(base, context + torch.randn_like(context), ranks)
                    reacts |= _reactions(moved, first, owner)[0]
    finally:
        torch.set_rng_state(generator_state)
    leaks = (influence & ~fac.dependencies).nonzero().tolist()
    if leaks:
        reader, read = leaks[0]
        order = fac.ranks.flatten()
        raise CheckError(
            f"{len(leaks)} leaks: the parameters of {fac.block_name(reader)} (rank "
            f"{order[reader]}) react to {fac.block_name(read)} (rank {order[read]}), on which "
            f"they may not depend"
        )
    allowed = int(fac.dependencies.sum())
    return Reach(
        influence,
        1.0 if allowed == 0 else int(influence.sum()) / allowed,
        None if context is None else reacts.double().mean().item(),
    )


def _two_events(layout: Layout) -> tuple[Tensor, Tensor]:
    """Two random events (1, ...), different in every block that has more than one value."""
    dtype = layout.dtype(torch.float64)

    def event() -> Tensor:
        return layout.sample(torch.randn(1, *layout.param_shape, dtype=torch.float64)).to(dtype)

    base = other = event()
    for _ in range(64):
        same = [
            block
            for block in range(layout.num_blocks)
            if torch.equal(
                layout.take("value", base, [block]), layout.take("value", other, [block])
            )
        ]
        if not same:
            break
        other = layout.put(other, same, layout.take("value", event(), same))
    return base, other


def _reactions(params: Tensor, first: Tensor, owner: Tensor) -> Tensor:
    """(rows, num_blocks) bool: whose parameters differ from the first ones."""
    difference = (params - first).flatten(1).abs()
    scale = 1 + first.abs().max()
    sums = torch.zeros(len(params), int(owner.max()) + 1, dtype=params.dtype)
    return sums.index_add_(1, owner, difference) > 1e-11 * scale


def check_decoder(
    network: nn.Module,
    context: Tensor | None = None,
    *,
    factorization: Factorization | None = None,
    batch_size: int = 6,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Holds the decoder against the parallel pass: step by step, after `prefill` and `select`.

    Args:
        network: a conditional network, in any dtype.
        context: (*batch_shape, *context_shape), of which the first two are used.
        batch_size: rows; even.
        tolerance: of parameters, relative to the largest; by default 1e-5 in float32 and 1e-10
            in float64.

    Raises:
        CheckError: where they differ.

    >>> import ardist as ad
    >>> fac = ad.Factorization(4, ad.families.Normal())
    >>> ad.testing.check_decoder(ad.networks.RNN(fac, hidden_size=8))
    """
    Joint(network, factorization, context)  # raises what does not fit
    batch_size, seed = as_positive(batch_size, "batch_size"), as_integer(seed, "seed")
    net = copy.deepcopy(unwrap(network)).eval()
    fac = factorization or net.factorization
    layout = fac.layout
    given = {} if factorization is None else {"factorization": fac}
    ranks = None if factorization is None else fac.ranks.flatten()
    like = next(net.parameters(), torch.empty(0))
    if context is not None:
        context = context.reshape(-1, *net.context_shape)[:2]
    if tolerance is None:
        tolerance = 1e-10 if like.dtype == torch.float64 else 1e-5
    tolerance = as_tolerance(tolerance, "tolerance")
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        raw = torch.randn(batch_size, *layout.param_shape, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            blocks = layout.sample(raw)
            params = net(blocks, context, ranks)
            rows = torch.randint(batch_size, (batch_size + 1,), device=like.device)
    finally:
        torch.set_rng_state(generator_state)
    scale = 1 + params.abs().max()

    def compare(found: Tensor, step: int, chosen: Tensor | slice, what: str) -> None:
        expected = layout.take("param", params, fac.steps[step])[chosen]
        if found.shape != expected.shape:
            raise CheckError(
                f"{what} at step {step}: expected parameters of shape {tuple(expected.shape)}, "
                f"got {tuple(found.shape)}"
            )
        error = ((found - expected).abs().max() / scale).item()
        if not error <= tolerance:
            raise CheckError(
                f"{what} at step {step}: differs from the parallel pass by {error:.1e} relative "
                f"to the largest parameter, expected at most {tolerance:.0e}"
            )

    def drawn(step: int, chosen: Tensor | slice) -> Tensor | None:
        return None if step == 0 else layout.take("value", blocks, fac.steps[step - 1])[chosen]

    everything = slice(None)
    decoder: Decoder = net.decoder(batch_size, context, **given)
    chosen: Tensor | slice = everything
    for step in range(fac.num_steps):
        compare(decoder.step(drawn(step, chosen)), step, chosen, "decoder.step")
        if step == fac.num_steps // 2:
            decoder.select(rows)
            chosen = rows
    for taken in sorted({1, fac.num_steps // 2, fac.num_steps - 1} - {0, fac.num_steps}):
        decoder = net.decoder(batch_size, context, **given)
        prefix = layout.take("value", blocks, list(chain(*fac.steps[:taken])))
        compare(decoder.prefill(prefix), taken, everything, "decoder.prefill")
        if taken + 1 < fac.num_steps:
            after = decoder.step(drawn(taken + 1, everything))
            compare(after, taken + 1, everything, "decoder.step after prefill")


def check_normalized(
    p: AutoregressiveDistribution, *, num_points: int = 401, tolerance: float = 1e-4
) -> Tensor:
    """Sums the probabilities, or integrates the density, of a small event.

    Discrete blocks are enumerated (counts up to 200); continuous ones are integrated by the
    trapezoidal rule on `num_points` points for each unconstrained coordinate, dense near zero and
    reaching far out. For at most two continuous coordinates.

    Returns:
        the totals, of shape batch_shape, each within `tolerance` of 1.

    Raises:
        CheckError: where a total is not 1.
        ValueError: where the event is too large for this.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Bernoulli()), hidden_features=(8,))
    >>> print(f"{ad.testing.check_normalized(net.condition()).item():.3f}")
    1.000
    """
    check_type(p, AutoregressiveDistribution, "p")
    num_points = as_integer(num_points, "num_points", 2)
    tolerance = as_tolerance(tolerance, "tolerance")
    fac = p.factorization
    like = p.joint.reference
    nodes, weights = zip(*(_nodes(f, num_points, like) for f in fac.layout.families), strict=True)
    size = math.prod(len(values) for values in nodes)
    if size > 2**22:
        raise ValueError(f"p: expected an event small enough to be enumerated, got {size} points")
    total = torch.zeros(p.batch_shape, dtype=torch.float64, device=like.device)
    dtype = fac.layout.dtype(like.dtype)
    ones = (1,) * len(p.batch_shape)
    plain = p.expand(p.batch_shape)
    plain._validate_args = False
    for start in range(0, size, _ROWS_AT_ONCE):
        left = torch.arange(start, min(start + _ROWS_AT_ONCE, size), device=like.device)
        pieces: list[Tensor] = []
        log_weight = torch.zeros(len(left), dtype=torch.float64, device=like.device)
        for values, weight in zip(reversed(nodes), reversed(weights), strict=True):
            index, left = left % len(values), left // len(values)
            pieces.insert(0, values[index].reshape(len(index), -1).to(dtype))
            log_weight = log_weight + weight[index]
        x = fac.merge(torch.cat(pieces, -1).reshape(-1, *fac.layout.value_shape))
        log_prob = plain.log_prob(x.reshape(-1, *ones, *p.event_shape)).double()
        terms = (log_prob + log_weight.reshape(-1, *ones)).exp()
        total = total + terms.sum(0)
    if not ((total - 1).abs() <= tolerance).all():
        raise CheckError(f"p: expected probabilities that sum to 1, got {total.tolist()}")
    return total


def _nodes(family: Family, num_points: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Values (n, *event_shape) of a block and the logarithms of their weights (n,)."""
    support = family.support
    states = family.enumerate_support()
    if (
        states is None
        and isinstance(support, constraints.greater_than_eq | type(constraints.nonnegative_integer))
        and support.is_discrete
    ):
        states = torch.arange(201.0)
    if states is not None:
        states = states.to(like.device).reshape(len(states), *family.event_shape)
        return states, torch.zeros(len(states), dtype=torch.float64, device=like.device)
    transform = biject_to(support)
    free = Size(transform.inverse_shape(family.event_shape))
    is_real = isinstance(support, type(constraints.real)) or support is constraints.real
    furthest = 16.0 if is_real else 4.4
    axis = torch.linspace(-furthest, furthest, num_points, dtype=torch.float64, device=like.device)
    step = 2 * furthest / (num_points - 1)
    grids = torch.cartesian_prod(*[axis] * free.numel()).reshape(-1, free.numel())
    u = grids.sinh().reshape(-1, *free)
    values = transform(u)
    jacobian = transform.log_abs_det_jacobian(u, values).reshape(len(u), -1).sum(-1)
    return values, jacobian + (grids.cosh() * step).log().sum(-1)


def check_shapes(p: AutoregressiveDistribution) -> None:
    """Holds a distribution to torch's shape rules.

    `p.shape(s) == s + batch_shape + event_shape`, `log_prob` of the leading shape, `expand` in
    new, existing and leading dimensions, and broadcasting of value and batch in both directions,
    with the same numbers.

    Raises:
        CheckError: where a rule is broken.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=8)
    >>> ad.testing.check_shapes(net.condition())
    """
    check_type(p, AutoregressiveDistribution, "p")
    batch, event = p.batch_shape, p.event_shape
    grid = p.factorization.grid_shape

    def same(found: Size, expected: Size, what: str) -> None:
        if found != expected:
            raise CheckError(f"{what}: expected shape {tuple(expected)}, got {tuple(found)}")

    def close(found: Tensor, expected: Tensor, what: str) -> None:
        same(found.shape, expected.shape, what)
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
            raise CheckError(f"{what}: differs by {(found - expected).abs().max():.1e}")

    with torch.no_grad():
        for shape in (Size(), Size((2,)), Size((3, 2)), Size((0,))):
            x = p.sample(shape)
            same(x.shape, shape + batch + event, f"sample({tuple(shape)})")
            promised: Size = p.shape(shape)  # type: ignore[no-untyped-call]
            same(x.shape, promised, f"shape({tuple(shape)})")
            same(p.log_prob(x).shape, shape + batch, "log_prob")
            same(p.log_prob_blocks(x).shape, shape + batch + grid, "log_prob_blocks")
        x = p.sample()
        score = p.log_prob(x)
        sums = p.log_prob_blocks(x).reshape(*batch, -1).sum(-1)
        close(sums, score, "the sum of log_prob_blocks")
        for larger in (batch, Size((2,)) + batch, Size((3, 1, *batch))):
            q = p.expand(larger)
            same(q.batch_shape, larger, f"expand({tuple(larger)})")
            same(q.sample((2,)).shape, Size((2,)) + larger + event, "sample of an expanded one")
            close(q.log_prob(x), score.expand(larger), "log_prob of an expanded one")
            y = q.sample()
            close(p.log_prob(y), q.log_prob(y), "log_prob of an expanded one's draw")
        single = x.reshape(-1, *event)[0]
        everywhere = p.log_prob(single)
        same(everywhere.shape, batch, "log_prob of one event under all contexts")
        close(everywhere, p.log_prob(single.expand((*batch, *event))), "log_prob of one event")
