"""Checks of networks and distributions, including the ones that users write."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import biject_to, constraints

from ardist.bound_network import BoundNetwork, check_contexts, unwrap
from ardist.decoding import Decoder
from ardist.distribution import AutoregressiveDistribution
from ardist.drawing_order import Permutation
from ardist.factorization import Factorization
from ardist.families import Family
from ardist.families.hurdle import Spiked
from ardist.families.interval import integers
from ardist.layout import Layout
from ardist.networks.constants import reference_of
from ardist.ordering import Ordering
from ardist.shapes import as_integer, as_positive, as_seed, as_tolerance, default_dtype

__all__ = [
    "CheckError",
    "Reach",
    "check_autoregressive",
    "check_decoder",
    "check_normalized",
    "check_shapes",
]

_ROWS_AT_ONCE = 4096  # events in one call of log_prob


class CheckError(AssertionError, ValueError):
    """The error of a check that fails: an AssertionError and a ValueError.

    >>> import ardist as ad
    >>> issubclass(ad.testing.CheckError, AssertionError)
    True
    """


@dataclass(frozen=True)
class Reach:
    """The dependencies that `check_autoregressive` found.

    Attributes:
        influence: (num_blocks, num_blocks) bool; `influence[i, j]` is whether the parameters of
            block i depend on block j.
        reach: the share of allowed dependencies that exist; 1.0 if none is allowed.
        context_reach: the share of blocks whose parameters depend on the context; None without one.

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
    """Checks that each conditional depends only on the blocks that the factorization allows.

    It changes one block at a time and compares the parameters of all conditionals, for discrete and
    continuous blocks alike. It runs a copy of the network in float64 on the CPU, on a batch of
    `num_draws` random events, and changes a block in all of them.

    The network is checked in evaluation mode, which gives the result, and in training mode, with
    the same dropout in each pass. So the check finds batch norm over positions, which leaks only in
    training mode. Batch norm over the rows of a batch is not a leak: rows depend on each other, but
    no block depends on a later one.

    Parameters that are all zero, such as the weights of new output layers, would hide dependencies.
    The copy has random values in their place.

    Args:
        network: a conditional network, or a distribution with its context and factorization. If
            the rows of a distribution have orders of their own, the first order is used.
        context: (*batch_shape, *context_shape); the first context is used.
        factorization: replaces the network's own.
        num_draws: the number of random events.
        seed: the seed of the random events.

    Returns:
        the dependencies that exist.

    Raises:
        CheckError: if a conditional depends on a block that the factorization does not allow. The
            error names both blocks.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(5, ad.families.Normal()), hidden_features=(64,))
    >>> ad.testing.check_autoregressive(net).reach
    1.0
    """
    num_draws, seed = as_positive(num_draws, "num_draws"), as_seed(seed, "seed")
    net, context, factorization = _copy(network, context, factorization)
    net.to("cpu", torch.float64)
    fac = factorization or net.factorization
    layout = fac.layout
    ranks = None if factorization is None else fac.ranks.flatten()
    if context is not None:
        context = context[:1].to("cpu", torch.float64)
    sizes = torch.tensor(layout.sizes["param"], device="cpu")
    block_of = torch.repeat_interleave(sizes)  # (total params,)

    def run(blocks: Tensor, context: Tensor | None) -> Tensor:
        torch.manual_seed(seed)  # for the same dropout in each pass
        return net(blocks, context, ranks)

    def influence_on(params: Tensor) -> Tensor:
        columns = []
        for block in range(fac.num_blocks):
            value = layout.gather_blocks("value", other, [block])
            changed = run(layout.scatter_blocks(base, [block], value), context)
            columns.append(_changed_blocks(changed, params, block_of))
        return torch.stack(columns, -1)  # (num_blocks, num_blocks)

    seeded = torch.random.fork_rng(devices=[])
    with torch.no_grad(), seeded, default_dtype(torch.float64), torch.device("cpu"):
        torch.manual_seed(seed)
        base, other = _two_events(layout, max(num_draws, 2))  # batch norm needs two rows
        other_context = None if context is None else context + torch.randn_like(context)
        net.eval()
        params = run(base, context)
        influence = influence_on(params)
        _check_leaks(influence, fac, "")
        context_reach = None
        if other_context is not None:
            changed = _changed_blocks(run(base, other_context), params, block_of)
            context_reach = changed.double().mean().item()
        net.train()
        train_params = run(base, context)
        if not torch.equal(train_params, params):
            _check_leaks(influence_on(train_params), fac, " in training mode")
    allowed = int(fac.dependencies.sum())
    reach = 1.0 if allowed == 0 else int(influence.sum()) / allowed
    return Reach(influence, reach, context_reach)


def _check_leaks(influence: Tensor, fac: Factorization, mode: str) -> None:
    leaks = (influence & ~fac.dependencies).nonzero().tolist()
    if leaks:
        block, source = leaks[0]
        ranks = fac.ranks.flatten()
        raise CheckError(
            f"{len(leaks)} leaks{mode}: the parameters of {fac.block_name(block)} (rank "
            f"{ranks[block]}) react to {fac.block_name(source)} (rank {ranks[source]}), on which "
            f"they may not depend"
        )


def _copy(
    network: nn.Module | AutoregressiveDistribution,
    context: Tensor | None,
    factorization: Factorization | None,
) -> tuple[Any, Tensor | None, Factorization | None]:
    """A copy of the network, its contexts in rows, and the factorization if not the network's own.

    Arguments that are None come from the distribution, if `network` is one.
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
    # In one copy, since families may hold modules of the network.
    net, factorization = copy.deepcopy((unwrap(network), factorization))
    _randomize_zeros(net)
    if params is not None:
        net.load_state_dict(params, strict=False)
    if context is not None:
        context = context.reshape(-1, *net.context_shape)
    return net, context, factorization


@torch.no_grad()
def _randomize_zeros(network: nn.Module) -> None:
    """Replaces parameters that are all zero, since they hide leaks and wrong steps."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            values = torch.randn(parameter.shape, generator=generator, device="cpu")
            parameter.copy_(0.1 * values)


def _two_events(layout: Layout, rows: int) -> tuple[Tensor, Tensor]:
    """Two batches of random events (rows, *value_shape) in which all blocks differ if possible."""
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
    """The absolute difference, which is 0 between equal infinities."""
    return torch.where(found == expected, 0.0, (found - expected).abs())


def _scale(params: Tensor) -> Tensor:
    """One plus the largest finite absolute value."""
    return 1 + torch.where(params.isfinite(), params.abs(), 0.0).max()


def _changed_blocks(params: Tensor, before: Tensor, block_of: Tensor) -> Tensor:
    """Whether the parameters of each block differ in some row: (num_blocks,) bool."""
    difference = _distance(params, before).flatten(1)  # (rows, total params)
    sums = torch.zeros(params.shape[0], int(block_of.max()) + 1, dtype=params.dtype)
    is_equal = sums.index_add_(1, block_of, difference) <= 1e-11 * _scale(before)
    return ~is_equal.all(0)


def check_decoder(
    network: nn.Module | AutoregressiveDistribution,
    context: Tensor | None = None,
    *,
    factorization: Factorization | None = None,
    batch_size: int = 6,
    tolerance: float | None = None,
    seed: int = 0,
) -> None:
    """Checks that a network's decoder computes the same parameters as the parallel pass.

    The decoder is checked step by step, after `prefill` and after `select`, and with an order for
    each row if the network supports that. The check runs on a copy of the network, in which random
    values replace parameters that are all zero.

    Args:
        network: a conditional network in any dtype, or a distribution, as for
            `check_autoregressive`.
        context: (*batch_shape, *context_shape); the first two contexts are used.
        factorization: replaces the network's own.
        batch_size: the number of rows. It must be even if there are several contexts.
        tolerance: the largest difference allowed, relative to the largest parameter; by default
            1e-10 in float64 and 1e-5 otherwise.
        seed: the seed of the random events.

    Raises:
        CheckError: if the parameters differ.
        ValueError: if `batch_size` is odd and there are several contexts.

    >>> import ardist as ad
    >>> fac = ad.Factorization(4, ad.families.Normal())
    >>> ad.testing.check_decoder(ad.networks.RNN(fac, hidden_size=8))
    """
    batch_size, seed = as_positive(batch_size, "batch_size"), as_seed(seed, "seed")
    net, context, factorization = _copy(network, context, factorization)
    net.eval()
    if context is not None:
        context = context[:2]
        check_contexts(net, context, batch_size, "batch_size")
    fac = factorization or net.factorization
    layout = fac.layout
    options = {} if factorization is None else {"factorization": fac}
    reference = reference_of(net)
    ranks = None if factorization is None else fac.ranks.flatten().to(reference.device)
    if tolerance is None:
        tolerance = 1e-10 if reference.dtype == torch.float64 else 1e-5
    tolerance = as_tolerance(tolerance, "tolerance")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = layout.sample(reference.new_empty(batch_size, *layout.param_shape).normal_())
        params = net(blocks, context, ranks)
        rows = torch.randint(batch_size, (batch_size + 1,), device=reference.device)
    make = partial(net.decoder, batch_size, context, **options)
    _compare(make, fac, blocks, params, rows, tolerance)
    orders = torch.stack([torch.arange(fac.num_blocks).roll(row) for row in range(batch_size)])
    facs = [fac.with_ordering(Ordering.permutation(order)) for order in orders]
    if net.has_row_orders and fac.is_uniform and not any(map(net.unsupported_reason, facs)):
        orders = orders.to(reference.device)  # (rows, num_blocks)
        ranks = orders.argsort(-1)
        with torch.no_grad():
            params = net(blocks, context, ranks)
        drawing = Permutation(orders, ranks)
        blocks, params = drawing.to_drawing(blocks), drawing.to_drawing(params)
        make = partial(net.decoder, batch_size, context, ranks, **options)
        _compare(make, facs[0], blocks, params, rows, tolerance)


def _compare(
    make_decoder: Callable[[], Decoder],
    fac: Factorization,
    blocks: Tensor,
    params: Tensor,
    rows: Tensor,
    tolerance: float,
) -> None:
    """Raises a `CheckError` if new decoders do not give the parameters of the parallel pass.

    Args:
        make_decoder: makes a decoder.
        fac: the factorization, with the order of the draw.
        blocks: (rows, *value_shape).
        params: the parameters of the parallel pass, (rows, *param_shape).
        rows: the rows to select halfway.
        tolerance: the largest difference allowed, relative to the largest parameter.
    """
    layout, scale = fac.layout, _scale(params)

    def compare(found: Tensor, step: int, chosen: Tensor | slice, name: str) -> None:
        expected = layout.gather_blocks("param", params, fac.steps[step])[chosen]
        if found.shape != expected.shape:
            raise CheckError(
                f"{name} at step {step}: expected parameters of shape {tuple(expected.shape)}, "
                f"got {tuple(found.shape)}"
            )
        error = (_distance(found, expected).max() / scale).item()
        if not error <= tolerance:
            raise CheckError(
                f"{name} at step {step}: differs from the parallel pass by {error:.1e} relative "
                f"to the largest parameter, expected at most {tolerance:.0e}"
            )

    def previous(step: int, chosen: Tensor | slice) -> Tensor | None:
        if step == 0:
            return None
        return layout.gather_blocks("value", blocks, fac.steps[step - 1])[chosen]

    all_rows = slice(None)
    decoder = make_decoder()
    chosen: Tensor | slice = all_rows
    for step in range(fac.num_steps):
        compare(decoder.step(previous(step, chosen)), step, chosen, "decoder.step")
        if step == fac.num_steps // 2:
            decoder.select(rows)
            chosen = rows
    for step in sorted({1, fac.num_steps // 2, fac.num_steps - 1} - {0, fac.num_steps}):
        decoder = make_decoder()
        prefix = layout.gather_blocks("value", blocks, list(chain(*fac.steps[:step])))
        compare(decoder.prefill(prefix), step, all_rows, "decoder.prefill")
        if step + 1 < fac.num_steps:
            after = decoder.step(previous(step + 1, all_rows))
            compare(after, step + 1, all_rows, "decoder.step after prefill")


def check_normalized(
    p: AutoregressiveDistribution | nn.Module, *, num_points: int = 401, tolerance: float = 1e-4
) -> Tensor:
    """Checks that the probabilities of a small event sum to 1, or its density integrates to 1.

    Discrete blocks are enumerated (for counts, the 201 smallest; for integers, all up to 200 in
    absolute value). Continuous blocks are integrated by the trapezoidal rule on `num_points` points
    for each unconstrained coordinate, which are dense near zero and cover large values. Use the
    check for at most two continuous coordinates. A density with a kink, such as the Laplace
    density, needs about 2000 points.

    Args:
        p: a distribution, or a network that takes no context.
        num_points: the number of points for each continuous coordinate.
        tolerance: the largest difference from 1 allowed.

    Returns:
        the totals, (*batch_shape), each within `tolerance` of 1.

    Raises:
        CheckError: if a total is not 1.
        ValueError: if the event has too many points, or observed elements of continuous blocks.

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
    nodes, log_weights = zip(
        *(_nodes(f, num_points, reference) for f in fac.layout.families), strict=True
    )
    size = math.prod(values.shape[0] for values in nodes)
    if size > 2**22:
        raise ValueError(f"p: expected an event small enough to be enumerated, got {size} points")
    if p.evidence is not None:
        is_integrated = torch.stack([each.any() for each in log_weights])
        if (fac.split(p.evidence[1]) & fac.layout.expand_to_elements(is_integrated)).any():
            raise ValueError("p: expected no observed continuous elements, got some in p.given")
    total = torch.zeros(p.batch_shape, dtype=torch.float64, device=reference.device)
    dtype = fac.layout.dtype(reference.dtype)
    ones = (1,) * len(p.batch_shape)
    unchecked = p.expand(p.batch_shape)
    unchecked._validate_args = False
    for start in range(0, size, _ROWS_AT_ONCE):
        # The indices of points in the product of all nodes, as digits from the last block on.
        points = torch.arange(start, min(start + _ROWS_AT_ONCE, size), device=reference.device)
        pieces: list[Tensor] = []
        log_weight = torch.zeros(points.shape[0], dtype=torch.float64, device=reference.device)
        for values, each in zip(reversed(nodes), reversed(log_weights), strict=True):
            index, points = points % values.shape[0], points // values.shape[0]
            pieces.insert(0, values[index].reshape(index.shape[0], -1).to(dtype))
            log_weight = log_weight + each[index]
        x = fac.merge(torch.cat(pieces, -1).reshape(-1, *fac.layout.value_shape))
        log_prob = unchecked.log_prob(x.reshape(-1, *ones, *p.event_shape)).double()
        terms = (log_prob + log_weight.reshape(-1, *ones)).exp()  # (points, *batch_shape)
        total = total + terms.sum(0)
    if not ((total - 1).abs() <= tolerance).all():
        is_summed = all(family.support.is_discrete for family in fac.layout.families)
        hint = "" if is_summed else f" with num_points={num_points}"
        raise CheckError(f"p: expected probabilities that sum to 1, got {total.tolist()}{hint}")
    return total


def _distribution(p: AutoregressiveDistribution | nn.Module) -> AutoregressiveDistribution:
    """The distribution itself, or the distribution of a network without a context."""
    if isinstance(p, AutoregressiveDistribution):
        return p
    unwrap(p, "p")  # raises if there is no conditional network inside
    return AutoregressiveDistribution(p)


def _nodes(family: Family, num_points: int, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The values (n, *event_shape) of a block and their log-weights (n,)."""
    support = family.support
    if isinstance(support, Spiked):
        return _with_points(support, *_nodes(support.family, num_points, reference), reference)
    states = family.enumerate_support()
    if states is None and isinstance(support, type(constraints.nonnegative_integer)):
        states = torch.arange(201.0) + support.lower_bound
    if support is integers:
        states = torch.arange(-200.0, 201.0)
    if states is not None:
        states = states.to(reference.device).reshape(states.shape[0], *family.event_shape)
        return states, torch.zeros(states.shape[0], dtype=torch.float64, device=reference.device)
    transform = biject_to(support)
    free = Size(transform.inverse_shape(family.event_shape))
    is_real = isinstance(support, type(constraints.real)) or support is constraints.real
    # Equidistant points t, and unconstrained values sinh(t).
    bound = 16.0 if is_real else 4.4
    axis = torch.linspace(-bound, bound, num_points, dtype=torch.float64, device=reference.device)
    step = 2 * bound / (num_points - 1)
    points = torch.cartesian_prod(*[axis] * free.numel()).reshape(-1, free.numel())
    u = points.sinh().reshape(-1, *free)
    values = transform(u)
    log_det = transform.log_abs_det_jacobian(u, values).reshape(u.shape[0], -1).sum(-1)
    return values, log_det + (points.cosh() * step).log().sum(-1)


def check_shapes(p: AutoregressiveDistribution | nn.Module) -> None:
    """Checks that a distribution follows torch's shape rules.

    The rules: draws have the shape `p.shape(s) == s + batch_shape + event_shape`, `log_prob` has
    the leading shape, `expand` does not change the numbers, and value and batch broadcast in both
    directions.

    Args:
        p: a distribution, or a network that takes no context.

    Raises:
        CheckError: if a rule is violated.

    >>> import ardist as ad
    >>> net = ad.networks.MADE(ad.Factorization(3, ad.families.Normal()), hidden_features=8)
    >>> ad.testing.check_shapes(net.condition())
    """
    p = _distribution(p)
    batch, event = p.batch_shape, p.event_shape
    grid = p.factorization.grid_shape

    def check_shape(found: Size, expected: Size, name: str) -> None:
        if found != expected:
            raise CheckError(f"{name}: expected shape {tuple(expected)}, got {tuple(found)}")

    def check_close(found: Tensor, expected: Tensor, name: str) -> None:
        check_shape(found.shape, expected.shape, name)
        if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
            raise CheckError(f"{name}: differs by {(found - expected).abs().max():.1e}")

    with torch.no_grad():
        for shape in (Size(), Size((2,)), Size((3, 2)), Size((0,))):
            x = p.sample(shape)
            check_shape(x.shape, shape + batch + event, f"sample({tuple(shape)})")
            expected: Size = p.shape(shape)  # type: ignore[no-untyped-call]
            check_shape(x.shape, expected, f"shape({tuple(shape)})")
            check_shape(p.log_prob(x).shape, shape + batch, "log_prob")
            check_shape(p.log_prob_blocks(x).shape, shape + batch + grid, "log_prob_blocks")
        x = p.sample()
        log_prob = p.log_prob(x)
        sums = p.log_prob_blocks(x).reshape(*batch, math.prod(grid)).sum(-1)
        check_close(sums, log_prob, "sum of log_prob_blocks")
        for larger in (batch, Size((2,)) + batch, Size((3, 1, *batch))):
            q = p.expand(larger)
            check_shape(q.batch_shape, larger, f"expand({tuple(larger)})")
            check_shape(q.sample((2,)).shape, Size((2,)) + larger + event, "sample after expand")
            check_close(q.log_prob(x), log_prob.expand(larger), "log_prob after expand")
            y = q.sample()
            check_close(p.log_prob(y), q.log_prob(y), "log_prob of a draw after expand")
        if p.context is not None and p.ranks is None and p.evidence is None:
            rebuilt = partial(
                AutoregressiveDistribution,
                p.network,
                factorization=p.factorization,
                params=p.params,
            )
            rows = p.context.reshape(-1, *p.bound.unwrapped.context_shape)
            q = rebuilt(rows)
            y = q.sample((2,))
            together = q.log_prob(y)
            for number, row in enumerate(rows):
                alone = rebuilt(row).log_prob(y[:, number])
                check_close(together[:, number], alone, f"log_prob under context {number} alone")
        if x.numel() == 0:
            return
        event_x = x.reshape(-1, *event)[0]
        broadcast = p.log_prob(event_x)
        check_shape(broadcast.shape, batch, "log_prob of one event under all contexts")
        expanded = p.log_prob(event_x.expand((*batch, *event)))
        check_close(broadcast, expanded, "log_prob of one event")


def _with_points(
    support: Spiked, values: Tensor, weights: Tensor, reference: Tensor
) -> tuple[Tensor, Tensor]:
    """The nodes of the family of a hurdle, and the points of the hurdle, each once.

    A node of a density that rounds to a point is moved to the next number, where the density is the
    density of the family.
    """
    points = torch.tensor(support.points, dtype=reference.dtype, device=reference.device)
    values = values.to(reference.dtype)
    is_point = (values.unsqueeze(-1) == points).any(-1)
    above, below = (
        torch.nextafter(values, torch.full_like(values, x)) for x in (math.inf, -math.inf)
    )
    neighbor = torch.where(support.family.inside(above), above, below)
    kept = ~(is_point & support.family._is_atom(values))
    return (
        torch.cat((points, torch.where(is_point, neighbor, values)[kept])),
        torch.cat((weights.new_zeros(points.shape), weights[kept])),
    )
