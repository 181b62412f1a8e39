"""No events at all: everything passes, with the shapes and gradients of nothing."""

import pytest
import torch
from table import CONTEXT, COVERING, NETWORKS, build, fits, is_of_a_family
from torch.distributions import Categorical, kl_divergence

import ardist as ad
from ardist import information, sampling, training, transforms

# Nothing is drawn, or there are no contexts.
CASES = [(*case, CONTEXT if number % 2 else ()) for number, case in enumerate(COVERING)]
CASES = [
    # Every other family of a kind that the rest has too.
    pytest.param(*case, marks=pytest.mark.slow if number % 2 and is_of_a_family(case[1]) else ())
    for number, case in enumerate(CASES)
]
CASES += [(name, "normal-raster", CONTEXT) for name in NETWORKS if fits(name, "normal-raster")]
# The classes of torch refuse to be made of nothing.
NO_CLASS = ("one_hot-along", "relaxed-along", "straight_through-along")


def same(x, *shape):
    assert x.shape == shape


@pytest.mark.parametrize(("network", "factorization", "context_shape"), CASES)
def test_no_rows_pass_everywhere(network, factorization, context_shape):
    net = build(network, factorization, context_shape)
    context = torch.zeros(0, 2, *context_shape) if context_shape else None
    p, fac = net.condition(context, validate_args=True), net.factorization
    layout, event = fac.layout, p.event_shape
    batch, shape = (p.batch_shape, ()) if context_shape else ((0,), (0,))
    x = p.sample(shape)
    same(x, *batch, *event)
    first = fac.merge(layout.expand_to_elements(fac.ranks.flatten() == 0))
    marginal = p.marginal(first)
    mixture = ad.Mixture(Categorical(torch.ones(2)), [p, p])
    orders = ad.OrderingMixture(net, [fac.ordering] * 2, context)
    given = [p.given(x, first), p.given(x, first.expand(x.shape)), p.expand((0, *p.batch_shape))]
    if net.has_row_orders and fac.is_total:
        given.append(p.with_ordering(torch.zeros(0, 2, *fac.grid_shape, dtype=torch.int64)))
    for q in (p, *given):
        lead = q.batch_shape if 0 in q.batch_shape else batch
        y = q.sample(() if 0 in q.batch_shape else shape)
        same(y, *lead, *event)
        same(q.log_prob(y), *lead)
        same(q.log_prob_blocks(y), *lead, *fac.grid_shape)
        if factorization not in NO_CLASS:
            q.conditionals(y)
            if q.ranks is None or fac.is_uniform:
                *_, last = sampling.ancestral(q, () if 0 in q.batch_shape else shape)
                same(last.event, *lead, *event)
        q.score_parts(y)
        if layout.has_noise:
            same(sampling.fixed_point(q, () if 0 in q.batch_shape else shape)[0], *lead, *event)
        if q.has_rsample:
            drawn, score = q.rsample_and_log_prob(() if 0 in q.batch_shape else shape)
            same(drawn, *lead, *event)
            same(score, *lead)
        if 0 in q.batch_shape:
            for found in (information.entropy(q), information.kl_divergence(q, q, 5)):
                same(found.value, *lead)
                same(found.standard_error, *lead)
            training.exposure_bias(p, x, num_samples=2)
            if fac.num_states is not None and (q.ranks is None or fac.is_uniform):
                same(kl_divergence(p, p), *p.batch_shape)
                for events, *scores in (
                    sampling.greedy(q),
                    [part[0] for part in sampling.beam_search(q, 3)],
                    [part[0] for part in sampling.without_replacement(q, 3)],
                ):
                    same(events, *lead, *event)
                    assert all(score.shape == lead for score in scores)
    for q in (mixture, orders):
        same(q.sample(shape), *x.shape)
        same(q.log_prob(x), *batch)
    y = marginal.sample(shape)
    same(y, *batch, int(first.sum()))
    same(marginal.log_prob(y), *batch)
    same(training.scheduled_log_prob(p, x, 0.5), *batch)
    missing = net.condition(context, nan_policy="marginalize")
    same(missing.log_prob(x.to(torch.get_default_dtype())), *batch)
    if any(family.has_cdf for family in layout.distinct):
        assert information.calibration(p, x).statistic.isnan().all()
    if all(family.is_bijective for family in layout.distinct):
        flow = transforms.AutoregressiveTransform(net, context)
        same(flow(flow.inv(x)), *x.shape)
        same(flow.log_abs_det_jacobian(x, x), *batch)
    if all(family.has_cdf and not family.event_shape for family in layout.distinct):
        uniforms = transforms.Rosenblatt(p)
        same(uniforms.inv(uniforms(x)), *x.shape)
        same(uniforms.randomized(x), *x.shape)
    if fac.names:
        assert torch.equal(fac.pack(fac.unpack(x)), x)
    total = ad.LogLikelihood(net)(x, context).sum()
    if p.has_rsample:
        total = total + p.rsample(shape).sum()
    total.backward()
    assert all(weight.grad is None or weight.grad.eq(0).all() for weight in net.parameters())
