"""A joint by definition, for `fuzz.py`, without the scores, draws and masks of the package.

A `Plan` has the elements of each block, the order in which blocks are drawn, and their families.
`scores` is the chain rule: torch's distribution of each block, with parameters from one plain
parallel pass, in which elements that the block does not depend on are replaced by other values.
`drawn` draws step by step from the same distributions.
"""

import itertools
import math
from functools import cached_property

import pyro.distributions as dist
import torch

from ardist import families as fam

MOST_EVENTS = 128  # that are enumerated


class Plan:
    """The definition of a factorization: the places of each block, families, order and end."""

    def __init__(self, shape, grid, places, families, ordering, end=None, pad=None, own=True):
        self.shape, self.grid, self.places, self.families = tuple(shape), grid, places, families
        self.end, self.pad, self.own, self.ordering = end, pad, own, ordering
        if isinstance(ordering, torch.Tensor):
            self.ranks = torch.unique(ordering, return_inverse=True)[1].flatten()
        else:
            self.ranks = ordering.ranks(torch.Size(grid)).flatten()
        self.depends = self.ranks[:, None] > self.ranks
        if getattr(ordering, "name", "") == "from_graph":
            self.depends = torch.tensor(ordering.arguments).bool().reshape(self.depends.shape)
        self.count = len(families)
        self.steps = [(self.ranks == r).nonzero().flatten().tolist() for r in self.ranks.unique()]
        self.total = bool((self.depends | self.depends.T | torch.eye(self.count).bool()).all())
        edges = self.depends.float()
        self.transitive = not ((edges @ edges > 0) & ~self.depends).any()
        self.uniform = all(family == families[0] for family in families)

    def replace(self, **changes):
        names = ("shape", "grid", "places", "families", "ordering", "end", "pad", "own")
        return Plan(**{**{name: getattr(self, name) for name in names}, **changes})

    def under(self, ordering):
        return self if ordering == self.ordering else self.replace(ordering=ordering, own=False)

    def mask(self, blocks):
        """The elements of some blocks: (*shape) bool."""
        mask = torch.zeros(math.prod(self.shape), dtype=torch.bool)
        for block in blocks:
            mask[self.places[block]] = True
        return mask.reshape(self.shape)

    def block(self, x, number):
        flat = x.reshape(len(x), -1)[:, self.places[number]]
        return flat.reshape(len(x), *self.families[number].event_shape)

    def as_blocks(self, x):
        """The input of a network: blocks in raster order of the grid."""
        flat = x.reshape(len(x), -1)[:, list(itertools.chain(*self.places))]
        if self.uniform:
            flat = flat.reshape(len(x), self.count, *self.families[0].event_shape)
        return flat.long() if all(family.is_index for family in self.families) else flat

    def params_of(self, params, number):
        """The parameters of one block, from the output of a network."""
        if self.uniform:
            return params[:, number]
        starts = [0, *itertools.accumulate(family.num_params for family in self.families)]
        return params[:, starts[number] : starts[number + 1]]

    @cached_property
    def events(self):
        """All combinations of states, whatever has ended: (number, *shape), or None."""
        each = [states_of(family) for family in self.families]
        if any(states is None for states in each) or math.prod(map(len, each)) > MOST_EVENTS:
            return None
        x = torch.zeros(math.prod(map(len, each)), math.prod(self.shape), dtype=torch.float64)
        for row, states in enumerate(itertools.product(*each)):
            for places, state in zip(self.places, states, strict=True):
                x[row, places] = state.reshape(-1)
        return x.reshape(-1, *self.shape)

    def ended(self, x):
        """Which blocks come after an end: (rows, blocks) bool."""
        flat = x.reshape(len(x), -1)[:, list(itertools.chain(*self.places))]
        if self.end is None:
            return torch.zeros(len(x), self.count, dtype=torch.bool)
        return ((flat == self.end)[:, None] & (self.ranks[:, None] > self.ranks)).any(-1)

    def padded(self, x):
        """The same events with padding after the end."""
        if self.end is None:
            return x
        flat = x.reshape(len(x), -1).clone()
        flat[:, list(itertools.chain(*self.places))] = flat[
            :, list(itertools.chain(*self.places))
        ].masked_fill(self.ended(x), self.pad)
        return flat.reshape(x.shape)

    @cached_property
    def is_valid(self):
        """Which of `events` have padding, and only that, after the end."""
        same = self.padded(self.events) == self.events
        return same.reshape(len(same), -1).all(1)

    def random(self, number):
        """Events inside the support, from a law of their own."""
        x = torch.zeros(number, math.prod(self.shape), dtype=torch.float64)
        for places, family in zip(self.places, self.families, strict=True):
            x[:, places] = random_values(family, number).reshape(number, -1)
        return self.padded(x.reshape(number, *self.shape))


def states_of(family):
    """All values of a block, (number, *event_shape), or None."""
    if isinstance(family, fam.Bernoulli):
        return torch.tensor([0.0, 1.0]).double()
    if isinstance(family, fam.Categorical) or getattr(family, "cls", None) is dist.Categorical:
        return torch.arange(family.num_params).double()
    if isinstance(family, fam.DiscretizedLogisticMixture):
        return torch.arange(family.bins).double()
    if isinstance(family, fam.OneHotCategorical):
        return torch.eye(family.num_params).double()
    if isinstance(family, fam.Nested):
        plan = family.network.plan
        if plan.events is None:
            return None
        return plan.events[plan.is_valid]
    if isinstance(family, fam.Independent):
        single, count = states_of(family.family), math.prod(family.shape)
        if single is None or len(single) ** count > MOST_EVENTS:
            return None
        return torch.stack(
            [torch.stack(each) for each in itertools.product(single, repeat=count)]
        ).reshape(-1, *family.event_shape)
    if isinstance(family, fam.Relaxed) and not family.straight_through:
        return None
    inner = getattr(family, "family", None)
    return states_of(inner) if isinstance(inner, fam.Family) else None


def random_values(family, number):
    if (states := states_of(family)) is not None:
        return states[torch.randint(len(states), (number,))]
    if isinstance(family, fam.Nested):
        return family.network.plan.random(number)
    if isinstance(family, fam.Independent):
        values = random_values(family.family, number * math.prod(family.shape))
        return values.reshape(number, *family.event_shape)
    return draw_of(family, torch.randn(number, family.num_params).double() * 0.5)


def log_prob_of(family, params, value):
    """log p of one block by its definition: params (N, P), value (N, *event_shape) to (N,)."""
    inner, rows = getattr(family, "family", None), len(params)
    if isinstance(family, fam.Nested):
        context = params.reshape(rows, *family.network.context_shape)
        return scores(family.network, family.network.plan, value, context).sum(-1)
    if isinstance(family, fam.Independent):
        each = params.reshape(-1, inner.num_params), value.reshape(-1, *inner.event_shape)
        return log_prob_of(inner, *each).reshape(rows, -1).sum(-1)
    if isinstance(family, fam.Mixture):
        size = family.num_components
        logits, each = params[:, :size], params[:, size:].reshape(rows, size, -1)
        parts = [log_prob_of(inner, each[:, c], value) for c in range(size)]
        return (logits.log_softmax(-1) + torch.stack(parts, -1)).logsumexp(-1)
    if isinstance(family, fam.Relaxed) and family.straight_through:
        return log_prob_of(inner, params, value)
    if isinstance(family, fam.Tempered | fam.TopK | fam.Nucleus):
        if (states := states_of(family)) is None:
            return tempered(family, params).log_prob(value)
        logits = torch.stack(
            [log_prob_of(inner, params, s.expand(rows, *s.shape)) for s in states], -1
        )
        if isinstance(family, fam.Tempered):
            logits = logits / family.temperature
        else:
            sorted_, order = logits.sort(dim=-1, descending=True, stable=True)
            before = sorted_.softmax(-1).cumsum(-1) - sorted_.softmax(-1)
            place = torch.arange(len(states)).expand(rows, -1)
            keep = place < family.k if isinstance(family, fam.TopK) else before < family.p
            logits = logits.masked_fill(~torch.zeros_like(keep).scatter(1, order, keep), -torch.inf)
        same = (value[:, None] == states).reshape(rows, len(states), -1).all(-1)
        return torch.where(same, logits.log_softmax(-1), 0.0).sum(-1)
    if isinstance(family, fam.VonMises):  # of which torch has seven digits
        own = family(params)
        away = own.concentration * ((value - own.loc).cos() - 1)
        return away - (2 * torch.pi * torch.special.i0e(own.concentration)).log()
    return family(params).log_prob(value)


def tempered(family, params):
    """Normal and Laplace to the power 1 / temperature."""
    own, t = family.family(params), family.temperature
    if isinstance(family.family, fam.Normal):
        return dist.Normal(own.loc, own.scale * t**0.5)
    return dist.Laplace(own.loc, own.scale * t)


def draw_of(family, params):
    """A draw of one block by its definition."""
    rows = len(params)
    if isinstance(family, fam.Nested):
        context = params.reshape(rows, *family.network.context_shape)
        return drawn(family.network, family.network.plan, context)
    if (states := states_of(family)) is not None:
        each = [log_prob_of(family, params, s.expand(rows, *s.shape)) for s in states]
        return states[torch.distributions.Categorical(logits=torch.stack(each, -1)).sample()]
    if isinstance(family, fam.Independent):
        each = draw_of(family.family, params.reshape(-1, family.family.num_params))
        return each.reshape(rows, *family.event_shape)
    if isinstance(family, fam.Mixture):
        logits, each = params[:, : family.num_components], params[:, family.num_components :]
        which = torch.distributions.Categorical(logits=logits).sample()
        each = each.reshape(rows, family.num_components, -1)[torch.arange(rows), which]
        return draw_of(family.family, each)
    made = tempered(family, params) if isinstance(family, fam.Tempered) else family(params)
    return made.sample().double()


def passes(network, plan, x, context, blocks=None):
    """The parameters of blocks, from a pass that replaces elements they do not depend on."""
    rows, other = len(x), plan.random(len(x))
    inputs, blocks = [], range(plan.count) if blocks is None else blocks
    for block in blocks:
        seen = plan.mask(plan.depends[block].nonzero().flatten().tolist())
        inputs.append(plan.as_blocks(torch.where(seen, x, other)))
    given = [torch.cat(inputs), context]
    given += [] if plan.own else [plan.ranks]
    params = network(*given)
    each = [params[i * rows : (i + 1) * rows] for i in range(len(blocks))]
    return {b: plan.params_of(part, b) for b, part in zip(blocks, each, strict=True)}


def scores(network, plan, x, context=None):
    """log p of each block given the blocks before, (rows, blocks); one context, or one a row."""
    params = passes(network, plan, x, context)
    each = [
        log_prob_of(family, params[block], plan.block(x, block))
        for block, family in enumerate(plan.families)
    ]
    found = torch.stack(each, -1)
    if plan.end is None:
        return found
    values = torch.stack([plan.block(x, block) for block in range(plan.count)], -1)
    certain = torch.where(values == plan.pad, 0.0, -torch.inf)
    return torch.where(plan.ended(x), certain, found)


def drawn(network, plan, context, evidence=None, number=None):
    """Draws step by step, one for each context, given (values, mask) of the first elements."""
    x = plan.random(number or len(context))
    for step in plan.steps:
        params = passes(network, plan, x, context, step)
        for block in step:
            flat, value = (
                x.reshape(len(x), -1).clone(),
                draw_of(plan.families[block], params[block]),
            )
            flat[:, plan.places[block]] = value.reshape(len(x), -1)
            x = flat.reshape(x.shape)
        x = plan.padded(x)
        if evidence is not None:
            x = torch.where(evidence[1], evidence[0], x)
    return x
