"""Checks that draws follow a law. A correct law fails with a probability below 1e-7."""

import torch
from pyro.distributions.testing.gof import auto_goodness_of_fit
from scipy.stats import binom, chi2, kstest, t

ALPHA = 1e-8  # of one comparison; the approximations below are good to a factor of ten
OFTEN = 20  # expected draws from which on the counts of a state are nearly normal


def assert_frequencies(counts, probs):
    """Counts (num_states,) follow the probabilities of the states, which need not sum to one."""
    counts, probs = (torch.as_tensor(part).detach().double() for part in (counts, probs))
    assert not counts[probs == 0].any(), "a state of probability zero was drawn"
    total = counts.sum()
    expected = probs / probs.sum() * total
    often = expected >= OFTEN
    rest, share = int(counts[~often].sum()), min(1.0, float(expected[~often].sum() / total))
    tails = binom.cdf(rest, int(total), share), binom.sf(rest - 1, int(total), share)
    assert min(tails) > ALPHA, f"{rest} draws of rare states, expected {share * total:.1f}"
    freedom = int(often.sum()) - int(not (~often).any())
    if freedom > 0:
        distance = ((counts - expected).square() / expected)[often].sum()
        assert chi2.sf(float(distance), freedom) > ALPHA, f"chi2 {distance:.1f} of {freedom}"


def assert_follows(p, x, states=None):
    """Events x (n, *event_shape) follow the log_prob of a distribution over finitely many."""
    states = p.enumerate_support() if states is None else states
    each = torch.cat(
        [(x.flatten(1) == state.flatten()).all(-1).sum().reshape(1) for state in states]
    )
    assert int(each.sum()) == x.shape[0], "an event outside of the support was drawn"
    assert_frequencies(each, p.log_prob(states).exp())


def assert_mean(samples, expected, slack=1e-9):
    """The means of samples (n, ...), none of which dominates, are those expected (...)."""
    n = samples.shape[0]
    error = samples.std(0) / n**0.5
    off = ((samples.mean(0) - expected).abs() - slack).clamp(min=0)
    assert (off <= quantile(n) * error).all(), f"{off / error} standard errors"


def quantile(n):
    """How many of its standard errors the mean of n samples is off at most."""
    return float(t.isf(ALPHA / 2, n - 1))


def assert_cdf(samples, cdf="uniform"):
    """Samples (n,) have this CDF: a function, or a name in `scipy.stats`."""
    assert kstest(samples.detach().double().numpy(), cdf).pvalue > ALPHA


def assert_density(samples, density, dim=1):
    """Samples have this density at them, by the distances to their nearest neighbors."""
    assert auto_goodness_of_fit(samples, density, dim=dim) > ALPHA
