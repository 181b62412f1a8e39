"""Checks of networks and distributions: of ours, and of those that users write."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import biject_to, constraints

from ardist.bound_network import BoundNetwork, unwrap
from ardist.decoding import Decoder
from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.layout import Layout
from ardist.ordering import Ordering
from ardist.shapes import as_integer, as_positive, as_tolerance

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
    network: nn.Module | AutoregressiveDistribution,
    context: Tensor | None = None,
    *,
    factorization: Factorization | None = None,
    num_draws: int = 4,
    seed: int = 0,
) -> Reach:
    """Changes one block at a time and looks at which conditionals react.

    It works for discrete and continuous blocks alike, on a copy of the network in float64 on the
    CPU, around `num_draws` random events that make one batch. A block is changed in all of them.

    The network is checked in evaluation mode, which is the mode of the result, and in training
    mode, with the same dropout in each pass. So batch norm over positions is found, which leaks
    only while the network is trained. Batch norm over the rows of a batch is no leak: it makes
    rows depend on each other, but no block on a later one.

    Args:
        network: a conditional network, or a distribution, which also gives the context and the
            factorization; of rows with orders of their own, the first one's order.
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
    num_draws, seed = as_positive(num_draws, "num_draws"), as_integer(seed, "seed")
    net, context, factorization = _copied(network, context, factorization)
    net.to("cpu", torch.float64)
    fac = factorization or net.factorization
    layout = fac.layout
    ranks = None if factorization is None else fac.ranks.flatten()
    if context is not None:
        context = context[:1].to("cpu", torch.float64)
    owner = torch.repeat_interleave(torch.tensor(layout.sizes["param"]))  # of each parameter

    def run(blocks: Tensor, context: Tensor | None) -> Tensor:
        torch.manual_seed(seed)  # the same units drop out
        return net(blocks, context, ranks)

    def influence_on(first: Tensor) -> Tensor:
        reactions = [
            _reactions(
                run(
                    layout.scatter_blocks(
                        base, [block], layout.gather_blocks("value", other, [block])
                    ),
                    context,
                ),
                *(first, owner),
            )
            for block in range(fac.num_blocks)
        ]
        return torch.stack(reactions, -1)

    with torch.no_grad(), torch.random.fork_rng(devices=[]), _default_dtype(torch.float64):
        torch.manual_seed(seed)
        base, other = _two_events(layout, max(num_draws, 2))  # batch norm needs two
        moved = None if context is None else context + torch.randn_like(context)
        net.eval()
        first = run(base, context)
        influence = influence_on(first)
        _raise_leaks(influence, fac, "")
        context_reach = None
        if moved is not None:
            reacts = _reactions(run(base, moved), first, owner)
            context_reach = reacts.double().mean().item()
        net.train()
        trained = run(base, context)
        if not torch.equal(trained, first):
            _raise_leaks(influence_on(trained), fac, " in training mode")
    allowed = int(fac.dependencies.sum())
    reach = 1.0 if allowed == 0 else int(influence.sum()) / allowed
    return Reach(influence, reach, context_reach)


def _raise_leaks(influence: Tensor, fac: Factorization, where: str) -> None:
    leaks = (influence & ~fac.dependencies).nonzero().tolist()
    if leaks:
        reader, read = leaks[0]
        order = fac.ranks.flatten()
        raise CheckError(
            f"{len(leaks)} leaks{where}: the parameters of {fac.block_name(reader)} (rank "
            f"{order[reader]}) react to {fac.block_name(read)} (rank {order[read]}), on which "
            f"they may not depend"
        )


def _copied(
    network: nn.Module | AutoregressiveDistribution,
    context: Tensor | None,
    factorization: Factorization | None,
) -> tuple[Any, Tensor | None, Factorization | None]:
    """A copy of the network, its contexts in rows, and the factorization if not the network's own.

    A distribution gives what is None.
    """
    params = None
    if isinstance(network, AutoregressiveDistribution):
        p, params = network, network.params
        context = p.context if context is None else context
        if p.ranks is not None:
            ranks = p.ranks.flatten(0, -2)[0].reshape(p.factorization.grid_shape)
            ordering = Ordering.from_ranks(ranks.cpu())
            factorization = factorization or p.factorization.with_ordering(ordering)
        elif not p.bound.is_own:
            factorization = factorization or p.bound.network_factorization
        network = p.network
    BoundNetwork(network, factorization, context)  # raises if they do not fit
    # Together, since families may hold modules of the network.
    net, factorization = copy.deepcopy((unwrap(network), factorization))
    if params is not None:
        net.load_state_dict(params, strict=False)
    if context is not None:
        context = context.reshape(-1, *net.context_shape)
    return net, context, factorization


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What networks and families make of plain numbers, as in a network of that dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _two_events(layout: Layout, rows: int) -> tuple[Tensor, Tensor]:
    """Random events (rows, ...), twice, with different blocks where there is more than a value."""
    dtype = layout.dtype(torch.float64)

    def events() -> Tensor:
        return layout.sample(torch.randn(rows, *layout.param_shape, dtype=torch.float64)).to(dtype)

    base = other = events()
    for _ in range(64):
        same = layout.count(other != base) == 0
        if not same.any():
            break
        other = torch.where(layout.expand_to_elements(same), events(), other)
    return base, other


def _distance(found: Tensor, expected: Tensor) -> Tensor:
    """How far they are from each other: not at all if both are the same infinity."""
    return torch.where(found == expected, 0.0, (found - expected).abs())


def _scale(params: Tensor) -> Tensor:
    """One more than the largest finite one."""
    return 1 + torch.where(params.isfinite(), params.abs(), 0.0).max()


def _reactions(params: Tensor, first: Tensor, owner: Tensor) -> Tensor:
    """(num_blocks,) bool: whose parameters differ from the first ones in some row."""
    difference = _distance(params, first).flatten(1)
    sums = torch.zeros(params.shape[0], int(owner.max()) + 1, dtype=params.dtype)
    small = sums.index_add_(1, owner, difference) <= 1e-11 * _scale(first)
    return ~small.all(0)


def check_decoder(
    network: nn.Module | AutoregressiveDistribution,
    context: Tensor | None = None,
    *,
    factorization: Factorization | None = None,
    batch_size: int = 6,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Holds the decoder against the parallel pass: step by step, after `prefill` and `select`, and
    in an order for each row where the network takes these.

    Args:
        network: a conditional network, in any dtype, or a distribution, as for
            `check_autoregressive`.
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
    batch_size, seed = as_positive(batch_size, "batch_size"), as_integer(seed, "seed")
    net, context, factorization = _copied(network, context, factorization)
    net.eval()
    fac = factorization or net.factorization
    layout = fac.layout
    given = {} if factorization is None else {"factorization": fac}
    ranks = None if factorization is None else fac.ranks.flatten()
    reference = next(net.parameters(), torch.empty(0))
    if context is not None:
        context = context[:2]
    if tolerance is None:
        tolerance = 1e-10 if reference.dtype == torch.float64 else 1e-5
    tolerance = as_tolerance(tolerance, "tolerance")
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        raw = torch.randn(
            batch_size, *layout.param_shape, dtype=reference.dtype, device=reference.device
        )
        with torch.no_grad():
            blocks = layout.sample(raw)
            params = net(blocks, context, ranks)
            rows = torch.randint(batch_size, (batch_size + 1,), device=reference.device)
    finally:
        torch.set_rng_state(generator_state)
    _hold(partial(net.decoder, batch_size, context, **given), fac, blocks, params, rows, tolerance)
    orders = torch.stack([torch.arange(fac.num_blocks).roll(row) for row in range(batch_size)])
    each = [fac.with_ordering(Ordering.permutation(order)) for order in orders]
    if net.has_row_orders and fac.is_uniform and not any(map(net.unsupported_reason, each)):
        orders = orders.to(reference.device)
        ranks = orders.argsort(-1)
        with torch.no_grad():
            params = net(blocks, context, ranks)
        blocks, params = (
            part.gather(1, orders.reshape(*orders.shape, *(1,) * (part.dim() - 2)).expand_as(part))
            for part in (blocks, params)
        )
        start = partial(net.decoder, batch_size, context, ranks, **given)
        _hold(start, each[0], blocks, params, rows, tolerance)


def _hold(
    start: Callable[[], Decoder],
    fac: Factorization,
    blocks: Tensor,
    params: Tensor,
    rows: Tensor,
    tolerance: float,
) -> None:
    """Holds a new decoder against the parameters of the parallel pass, both in the same order."""
    layout, scale = fac.layout, _scale(params)

    def compare(found: Tensor, step: int, chosen: Tensor | slice, what: str) -> None:
        expected = layout.gather_blocks("param", params, fac.steps[step])[chosen]
        if found.shape != expected.shape:
            raise CheckError(
                f"{what} at step {step}: expected parameters of shape {tuple(expected.shape)}, "
                f"got {tuple(found.shape)}"
            )
        error = (_distance(found, expected).max() / scale).item()
        if not error <= tolerance:
            raise CheckError(
                f"{what} at step {step}: differs from the parallel pass by {error:.1e} relative "
                f"to the largest parameter, expected at most {tolerance:.0e}"
            )

    def drawn(step: int, chosen: Tensor | slice) -> Tensor | None:
        return (
            None
            if step == 0
            else layout.gather_blocks("value", blocks, fac.steps[step - 1])[chosen]
        )

    everything = slice(None)
    decoder = start()
    chosen: Tensor | slice = everything
    for step in range(fac.num_steps):
        compare(decoder.step(drawn(step, chosen)), step, chosen, "decoder.step")
        if step == fac.num_steps // 2:
            decoder.select(rows)
            chosen = rows
    for taken in sorted({1, fac.num_steps // 2, fac.num_steps - 1} - {0, fac.num_steps}):
        decoder = start()
        prefix = layout.gather_blocks("value", blocks, list(chain(*fac.steps[:taken])))
        compare(decoder.prefill(prefix), taken, everything, "decoder.prefill")
        if taken + 1 < fac.num_steps:
            after = decoder.step(drawn(taken + 1, everything))
            compare(after, taken + 1, everything, "decoder.step after prefill")


def check_normalized(
    p: AutoregressiveDistribution | nn.Module, *, num_points: int = 401, tolerance: float = 1e-4
) -> Tensor:
    """Sums the probabilities, or integrates the density, of a small event.

    Discrete blocks are enumerated (counts up to 200); continuous ones are integrated by the
    trapezoidal rule on `num_points` points for each unconstrained coordinate, dense near zero and
    reaching far out. For at most two continuous coordinates.

    Args:
        p: a distribution, or a network that takes no context.

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
    num_points = as_integer(num_points, "num_points", 2)
    tolerance = as_tolerance(tolerance, "tolerance")
    p = _distribution(p)
    fac = p.factorization
    reference = p.bound.reference
    nodes, weights = zip(
        *(_nodes(f, num_points, reference) for f in fac.layout.families), strict=True
    )
    size = math.prod(values.shape[0] for values in nodes)
    if size > 2**22:
        raise ValueError(f"p: expected an event small enough to be enumerated, got {size} points")
    total = torch.zeros(p.batch_shape, dtype=torch.float64, device=reference.device)
    dtype = fac.layout.dtype(reference.dtype)
    ones = (1,) * len(p.batch_shape)
    plain = p.expand(p.batch_shape)
    plain._validate_args = False
    for start in range(0, size, _ROWS_AT_ONCE):
        left = torch.arange(start, min(start + _ROWS_AT_ONCE, size), device=reference.device)
        pieces: list[Tensor] = []
        log_weight = torch.zeros(left.shape[0], dtype=torch.float64, device=reference.device)
        for values, weight in zip(reversed(nodes), reversed(weights), strict=True):
            index, left = left % values.shape[0], left // values.shape[0]
            pieces.insert(0, values[index].reshape(index.shape[0], -1).to(dtype))
            log_weight = log_weight + weight[index]
        x = fac.merge(torch.cat(pieces, -1).reshape(-1, *fac.layout.value_shape))
        log_prob = plain.log_prob(x.reshape(-1, *ones, *p.event_shape)).double()
        terms = (log_prob + log_weight.reshape(-1, *ones)).exp()
        total = total + terms.sum(0)
    if not ((total - 1).abs() <= tolerance).all():
        raise CheckError(f"p: expected probabilities that sum to 1, got {total.tolist()}")
    return total


def _distribution(p: AutoregressiveDistribution | nn.Module) -> AutoregressiveDistribution:
    """A network without context stands for its distribution."""
    if isinstance(p, AutoregressiveDistribution):
        return p
    unwrap(p, "p")  # raises if there is no conditional network inside
    return AutoregressiveDistribution(p)


def _nodes(family: Family, num_points: int, reference: Tensor) -> tuple[Tensor, Tensor]:
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
        states = states.to(reference.device).reshape(states.shape[0], *family.event_shape)
        return states, torch.zeros(states.shape[0], dtype=torch.float64, device=reference.device)
    transform = biject_to(support)
    free = Size(transform.inverse_shape(family.event_shape))
    is_real = isinstance(support, type(constraints.real)) or support is constraints.real
    furthest = 16.0 if is_real else 4.4
    axis = torch.linspace(
        -furthest, furthest, num_points, dtype=torch.float64, device=reference.device
    )
    step = 2 * furthest / (num_points - 1)
    grids = torch.cartesian_prod(*[axis] * free.numel()).reshape(-1, free.numel())
    u = grids.sinh().reshape(-1, *free)
    values = transform(u)
    jacobian = transform.log_abs_det_jacobian(u, values).reshape(u.shape[0], -1).sum(-1)
    return values, jacobian + (grids.cosh() * step).log().sum(-1)


def check_shapes(p: AutoregressiveDistribution | nn.Module) -> None:
    """Holds a distribution to torch's shape rules.

    `p.shape(s) == s + batch_shape + event_shape`, `log_prob` of the leading shape, `expand` in
    new, existing and leading dimensions, and broadcasting of value and batch in both directions,
    with the same numbers.

    Args:
        p: a distribution, or a network that takes no context.

    Raises:
        CheckError: where a rule is broken.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=8)
    >>> ad.testing.check_shapes(net.condition())
    """
    p = _distribution(p)
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
