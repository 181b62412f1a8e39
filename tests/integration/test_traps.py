"""What goes wrong easily in a distribution for torch and Pyro: each trap by its number.

Those that are not here are tested elsewhere: 26 in tests/test_package.py, 28 in test_pyro.py, 29
and 33 in tests/networks/test_base.py, 31 in tests/engine/test_rsample.py, 32 in
tests/test_distribution.py, 34 in test_pyro_contract.py.
"""

import importlib
import pkgutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from laws import quantile
from pyro import infer, poutine
from pyro.infer.autoguide import AutoNormal
from pyro.ops.packed import pack
from pyro.util import check_site_shape
from table import CONTEXT, build, random_made
from torch import nn
from torch.distributions import Distribution, biject_to, kl_divergence, transforms

import ardist as ad
from ardist import families as fam
from ardist import networks

kinds = pytest.mark.parametrize("kind", ["joint", "given", "marginal", "orderings"])


def of_kind(kind, factorization="normal-raster"):
    """A distribution of each class and making, of batch_shape (2,)."""
    net = build("transformer", factorization, CONTEXT)
    contexts = torch.randn(2, *CONTEXT)
    orderings = [ad.Ordering.raster(), ad.Ordering.reverse()]
    p = net.condition(contexts)
    mask = (torch.arange(4) % 3 > 0).reshape(p.event_shape)
    return {
        "joint": lambda: p,
        "given": lambda: p.given(p.sample(), mask),
        "marginal": lambda: p.marginal(mask),
        "orderings": lambda: ad.OrderingMixture(net, orderings, contexts),
    }[kind]()


# Gradients, and inference in Pyro.


BATCHES = 32  # of draws, whose mean gradients are compared


class Chain:
    """A latent of a discrete and a continuous block under an autoregressive guide."""

    def __init__(self, has_rsample=None):
        fac = ad.Factorization.columns(k=fam.Bernoulli(), z=fam.Normal())
        self.net, self.has_rsample = random_made(fac, hidden_features=(6,)), has_rsample
        for weight in self.net.parameters():
            nn.init.normal_(weight, std=0.4)

    def prior(self):
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def utility(self, x):
        return 3 * x[..., 0] - (x[..., 1] - 2 * x[..., 0]).square()

    def model(self):
        pyro.factor("utility", self.utility(pyro.sample("x", self.prior())))

    def guide(self):
        pyro.module("net", self.net)
        q = self.net.condition()
        pyro.sample("x", q if self.has_rsample is None else q.has_rsample_(self.has_rsample))

    def gradient(self, backward):
        self.net.zero_grad()
        backward()
        return torch.cat([weight.grad.flatten() for weight in self.net.parameters()])

    def exact(self):
        """The gradient of the loss by a sum over k and quadrature over z."""
        z = torch.linspace(-9.0, 9.0, 401)
        events = torch.cartesian_prod(torch.tensor([0.0, 1.0]), z)
        log_q = self.net.condition().log_prob(events)
        terms = log_q.exp() * (log_q - self.prior().log_prob(events) - self.utility(events))
        return self.gradient((terms.sum() * (z[1] - z[0])).backward)

    def error(self, elbo):
        """How far an estimator's mean is from the exact gradient, at most, in standard errors."""
        estimator = getattr(infer, f"{elbo}_ELBO")(
            num_particles=500,
            vectorize_particles=True,
            max_plate_nesting=0,
            strict_enumeration_warning=False,
        )

        def backward():
            estimator.loss_and_grads(self.model, self.guide)

        found = torch.stack([self.gradient(backward) for _ in range(BATCHES)])
        standard_errors = found.std(0) / BATCHES**0.5
        return ((found.mean(0) - self.exact()).abs() / (standard_errors + 1e-10)).max()


@pytest.mark.parametrize("has_rsample", [None, True])
@pytest.mark.parametrize("elbo", ["Trace", "TraceEnum"])
def test_trap_01_partial_reparameterisation(elbo, has_rsample, monkeypatch, float64):
    """The default `score_parts` has no score of discrete blocks where a site has `rsample`."""
    chain = Chain(has_rsample)
    assert chain.error(elbo) < quantile(BATCHES)
    if has_rsample:
        default = dist.Distribution.score_parts
        monkeypatch.setattr(ad.AutoregressiveDistribution, "score_parts", default)
        assert chain.error(elbo) > 10


def test_trap_02_trace_graph_ignores_score_parts(float64):
    """tracegraph_elbo.py asks a site with `rsample` for no score, so that is never the default."""
    p = Chain().net.condition()
    assert not p.has_rsample
    with pytest.raises(NotImplementedError, match=r"has_rsample_\(True\) asks for"):
        p.rsample()
    assert Chain().error("TraceGraph") < quantile(BATCHES)
    torch.manual_seed(0)  # always the same network, of which the bias is large
    assert Chain(has_rsample=True).error("TraceGraph") > 10
    with pytest.raises(NotImplementedError, match="fully reparameterized"):
        Chain().error("TraceMeanField")


def test_trap_03_wrappers_drop_score_parts():
    """Most wrappers have Pyro's own `score_parts`, which are right for one kind of blocks alone."""
    p = Chain().net.condition().expand((3,))
    mask = torch.tensor([True, False, True])
    for wrapped in (
        p.to_event(1),
        dist.TransformedDistribution(p, [transforms.AffineTransform(0.0, 2.0)]),
        dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), p),
    ):
        x = wrapped()
        assert not x.requires_grad
        torch.testing.assert_close(wrapped.score_parts(x).score_function, wrapped.log_prob(x))
    p.has_rsample_(True)
    for wrapped in (p.mask(mask), p.expand((2, 3)), dist.TorchDistribution.expand(p, (2, 3))):
        x = wrapped()
        assert x.requires_grad
        of_k = p.log_prob_blocks(x)[..., 0]  # which Pyro neither masks nor scales
        torch.testing.assert_close(wrapped.score_parts(x).score_function, of_k)


@kinds
def test_trap_04_has_rsample_is_set_on_the_instance(kind):
    """Pyro assigns it (distribution.py, broadcast_messenger.py), and `expand` takes it along."""
    p = of_kind(kind)
    assert p.has_rsample
    p.has_rsample_(False)
    assert not p.expand((3, 2)).has_rsample
    with pyro.plate("rows", 2), pyro.plate("outer", 3):
        assert not pyro.sample("x", p).requires_grad
        assert pyro.sample("y", p.has_rsample_(True)).requires_grad
    assert not p.sample().requires_grad
    assert of_kind(kind).has_rsample


@kinds
def test_trap_05_plates_expand_distributions_of_pyro_alone(kind):
    """A plain one of torch is left as it is, by broadcast_messenger.py and enum_messenger.py."""
    p = of_kind(kind, "bernoulli-raster")
    assert isinstance(p, dist.torch_distribution.TorchDistributionMixin)
    with poutine.trace() as tracer, pyro.plate("rows", 2), pyro.plate("outer", 3):
        x = pyro.sample("x", p)
    assert tracer.trace.nodes["x"]["fn"].batch_shape == (3, 2)
    assert x.shape == (3, 2, *p.event_shape)


# Shapes.


@kinds
def test_trap_06_expand_is_called_by_every_plate(kind, monkeypatch):
    """So it runs nothing and repeats nothing, under a context or none."""
    rows, forward = [], networks.Transformer.forward

    def counted(self, blocks, *args):
        rows.append(len(blocks))
        return forward(self, blocks, *args)

    p = of_kind(kind, "bernoulli-raster")
    x = p.sample()
    monkeypatch.setattr(networks.Transformer, "forward", counted)
    assert p.expand((10**6, 2)).expand((10**6, 10**6, 2)).batch_shape == (10**6, 10**6, 2)
    assert rows == []
    with poutine.trace() as tracer, pyro.plate("rows", 2), pyro.plate("outer", 3):
        pyro.sample("x", p, obs=x)
    tracer.trace.compute_log_prob()
    assert rows == [2] * (2 if kind == "orderings" else 1)
    rows.clear()
    alone = build("transformer", "normal-raster").condition().expand((4,)).expand((3, 4))
    assert alone.log_prob(torch.zeros(4)).shape == (3, 4)
    assert rows == [1]
    assert alone.sample().shape == (3, 4, 4)


@kinds
def test_trap_07_the_expansion_of_pyro_changes_itself(kind):
    """ExpandedDistribution returns itself, and enumerates without the dimensions of events."""
    p = of_kind(kind, "bernoulli-raster")
    once = p.expand((3, 2))
    twice = once.expand((4, 3, 2))
    assert type(p) is type(once) is type(twice)
    assert [q.batch_shape for q in (p, once, twice)] == [(2,), (3, 2), (4, 3, 2)]
    if twice.has_enumerate_support:
        assert twice.enumerate_support().shape == (16, 4, 3, 2, *p.event_shape)


class Named(ad.AutoregressiveDistribution):
    """A subclass whose `__init__` takes something else."""

    def __init__(self, name, network):
        super().__init__(network)
        self.name = name


def test_trap_07_a_subclass_is_expanded_without_its_init():
    """torch's `_get_checked_instance` refuses one that has an `__init__` and no `expand`."""
    p = Named("mine", build("made", "normal-raster")).expand((3,))
    assert (type(p), p.name, p.sample().shape) == (Named, "mine", (3, 4))


def test_trap_08_value_and_batch_broadcast_in_both_directions():
    """Enumeration adds dimensions to contexts alone, and a mixture adds one to values alone."""
    net = build("made", "normal-permutation", CONTEXT)
    logits, contexts, x = torch.randn(3), torch.randn(3, *CONTEXT), torch.randn(5, 4)
    each = torch.stack([net.condition(context).log_prob(x) for context in contexts])
    torch.testing.assert_close(net.condition(contexts.unsqueeze(1)).log_prob(x), each)
    torch.testing.assert_close(net.condition(contexts).log_prob(x.unsqueeze(1)), each.T)

    def model():
        with pyro.plate("rows", 5):
            k = pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("x", net.condition(contexts[k]), obs=x)

    loss = infer.TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, lambda: None)
    expected = (logits.log_softmax(0) + each.T).logsumexp(-1).sum()
    torch.testing.assert_close(-loss, expected)


@kinds
def test_trap_09_no_plate_lacks_a_dimension_of_a_score(kind):
    """check_site_shape in pyro/util.py and pack in ops/packed.py refuse one too many or too few."""
    p = of_kind(kind, "bernoulli-raster")
    for value in (p.sample(), p.sample()[0]):
        with poutine.trace() as tracer, pyro.plate("rows", 2), pyro.plate("outer", 3):
            pyro.sample("x", p, obs=value)
        tracer.trace.compute_score_parts()
        node = tracer.trace.nodes["x"]
        check_site_shape(node, max_plate_nesting=2)
        assert node["log_prob"].shape == (3, 2)
        for part in node["score_parts"]:
            pack(part, {-1: "r", -2: "o"})


@kinds
def test_trap_10_shapes_may_be_lists(kind):
    """A torch.Size is not added to a list, which Pyro's users give as well."""
    p = of_kind(kind)
    for shape in ([3], (3,), torch.Size([3])):
        for x in (p.sample(shape), p.rsample(shape), p(shape), p.expand_by(shape).sample()):
            assert x.shape == (3, 2, *p.event_shape)
        assert p.expand([*shape, 2]).batch_shape == (3, 2)


def test_trap_11_validation_is_of_whole_events():
    """So sequences that end are padded, and NaN that means missing has its own way past it."""
    p = build("rnn-gru", "ended").condition()
    assert p.log_prob(torch.tensor([0, 2, 2, 2])).isfinite()
    with pytest.raises(ValueError, match=r"expected pad 2 in block \(2,\)"):
        p.log_prob(torch.tensor([0, 2, 0, 2]))
    net, x = build("transformer", "normal-raster"), torch.tensor([0.3, torch.nan, -1.0, torch.nan])
    with pytest.raises(ValueError, match=r"inside the support Real\(\)"):
        net.condition().log_prob(x)
    p = ad.AutoregressiveDistribution(net, nan_policy="marginalize", validate_args=True)
    torch.testing.assert_close(p.log_prob(x), p.marginal(~x.isnan()).log_prob(x[~x.isnan()]))


def test_trap_12_a_masked_nan_spoils_the_gradient():
    """Pyro masks scores by `torch.where`, whose gradient is 0 * NaN: NaN must not come so far."""
    net = build("made", "normal-raster", CONTEXT)
    context, x = torch.randn(2, *CONTEXT, requires_grad=True), torch.randn(2, 4)
    kept, x[1] = torch.tensor([True, False]), torch.nan
    p = ad.AutoregressiveDistribution(net, context, nan_policy="marginalize")
    observed = net.condition(context).given(x, kept.unsqueeze(-1).expand(2, 4))
    for score in (p.mask(kept).log_prob(x), observed.log_prob(x.nan_to_num())):
        (gradient,) = torch.autograd.grad(score.sum(), context)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
    with pytest.raises(ValueError, match="mismatch"):
        p.mask(torch.ones(2, 4) > 0)  # has an entry for each row; NaN and `given` are for elements


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_trap_13_model_and_guide_agree_in_event_dim(shape):
    """infer/util.py refuses sites of which one has a dimension of events and one of a batch."""
    net = random_made(ad.Factorization(shape, fam.Normal()), hidden_features=(8,))

    def theirs():
        with pyro.plate("rows", 5):
            pyro.sample("x", dist.Normal(torch.zeros(shape), 1.0).to_event(len(shape)))

    def ours():
        with pyro.plate("rows", 5):
            pyro.sample("x", net.condition())

    for model, guide in ((theirs, ours), (ours, theirs)):
        assert infer.Trace_ELBO().differentiable_loss(model, guide).isfinite()


# Supports.


@kinds
def test_trap_14_a_class_has_a_support(kind):
    """Pyro's `infer_shapes` asks the class, for which a plain property is no constraint."""
    p = of_kind(kind, "columns")
    assert isinstance(type(p).support, dist.constraints.Constraint)
    with pytest.raises(NotImplementedError):
        p.infer_shapes(context=(2, *CONTEXT))
    assert p.support.event_dim == p.event_dim == len(p.event_shape)
    assert p.support.check(p.sample((3,))).shape == (3, 2)


def test_trap_15_cat_is_no_support_of_vectors():
    """`constraints.cat` has the event_dim of its parts, and cuts a simplex at the wrong place."""
    fac = ad.Factorization.columns(a=fam.Normal(), b=fam.Dirichlet(3), c=fam.Gamma())
    p = random_made(fac, hidden_features=(8,)).condition()
    assert p.support.event_dim == 1
    x, bijection = p.sample((7,)), biject_to(p.support)
    free = bijection.inv(x)
    assert free.shape == (7, 4)  # of which a simplex of 3 takes 2
    torch.testing.assert_close(bijection(free), x)
    guide = AutoNormal(lambda: pyro.sample("x", p))
    assert p.support.check(guide()["x"]).all()


def test_trap_16_one_discrete_block_makes_a_site_discrete():
    """So guides over the reals and NUTS refuse it; the score function is left."""
    p = Chain().net.condition()
    assert p.support.is_discrete
    with pytest.raises(NotImplementedError):
        biject_to(p.support)
    with pytest.raises(ValueError, match="discrete"):
        AutoNormal(lambda: pyro.sample("x", p))()


@pytest.mark.parametrize("factorization", ["ended", "ended-padded"])
def test_trap_17_a_support_that_moves_with_the_past_is_no_product(factorization):
    """What may follow depends on what came before; families whose own support moves are refused."""
    p = build("rnn-gru", factorization).condition()
    every = torch.cartesian_prod(*[torch.arange(3)] * 4).reshape(-1, *p.event_shape)
    states = p.enumerate_support()
    found = (every.unsqueeze(1) == states).flatten(2).all(-1).any(1)
    assert torch.equal(p.support.check(every), found)
    assert 0 < found.sum() < len(every)
    text = "cls: expected a distribution|links: expected a link for low"  # by the version of torch
    with pytest.raises(ValueError, match=text):
        fam.Parametric(dist.Uniform)


# Enumeration.


def test_trap_18_sites_that_can_be_enumerated_are():
    """`config_enumerate` and NUTS take each one, so that large events must not offer it."""
    small, large = (
        random_made(ad.Factorization(size, fam.Bernoulli()), hidden_features=(16,)).condition()
        for size in (2, 13)
    )
    assert small.expand((3, 1)).enumerate_support(expand=False).shape == (4, 1, 1, 2)
    assert not small.expand((3,)).to_event(1).has_enumerate_support
    prior, utility = dist.Bernoulli(torch.full((2,), 0.3)).to_event(1), torch.tensor([1.0, 2.0])

    def model():
        pyro.factor("utility", pyro.sample("small", prior) @ utility)
        pyro.sample("large", large)

    @infer.config_enumerate
    def guide():
        pyro.sample("small", small)
        pyro.sample("large", large)

    states = small.enumerate_support()
    log_q = small.log_prob(states)
    expected = (log_q.exp() * (log_q - prior.log_prob(states) - states @ utility)).sum()
    loss = infer.TraceEnum_ELBO(max_plate_nesting=0).differentiable_loss(model, guide)
    torch.testing.assert_close(loss, expected)


# Composition.


@pytest.mark.parametrize("factorization", ["ended", "bernoulli-raster", "normal-raster", "columns"])
def test_trap_19_a_mixture_adds_a_dimension_to_values(factorization):
    """MixtureSameFamily checks and scores with one more, which is the last of the components."""
    p = build("rnn-gru", factorization, CONTEXT).condition(torch.randn(2, 3, *CONTEXT))
    logits = torch.randn(4, 2, 3)
    for weights, components in ((logits[0], p), (logits, p.expand((4, 2, 3)))):
        mixture = dist.MixtureSameFamily(dist.Categorical(logits=weights), components)
        batch = weights.shape[:-1]
        x = mixture.sample((5,))
        assert (x.shape, x.dtype) == ((5, *batch, *p.event_shape), p.sample().dtype)
        assert mixture.support.event_dim == p.event_dim
        assert mixture.support.check(x).shape == (5, *batch)
        each = p.log_prob(x.unsqueeze(-1 - p.event_dim)) + weights.log_softmax(-1)
        torch.testing.assert_close(mixture.log_prob(x), each.logsumexp(-1))
        with pytest.raises(ValueError, match="support"):
            mixture.log_prob(torch.full_like(x, torch.nan if x.is_floating_point() else 7))


def test_trap_20_torch_transforms_what_is_continuous():
    """TransformedDistribution goes by event_dim and says continuous of anything that is inside."""
    p = build("made", "normal-permutation", CONTEXT).condition(torch.randn(2, *CONTEXT))
    parts = [transforms.AffineTransform(1.0, 2.0), transforms.ExpTransform()]
    for base in (p, p.to_event(1)):
        q = dist.TransformedDistribution(base, parts)
        x = base.sample((3,))
        y = (1 + 2 * x).exp()
        slopes = (2 * y).log().reshape(*base.log_prob(x).shape, -1).sum(-1)
        torch.testing.assert_close(q.log_prob(y), base.log_prob(x) - slopes)
        assert q.support.event_dim == q.event_dim == base.event_dim
        drawn = q.expand((5, *q.batch_shape)).rsample()
        assert drawn.shape == (5, 2, 4)
        assert drawn.requires_grad
    with pytest.raises(ValueError, match="expected a continuous family"):
        fam.Transformed(fam.Bernoulli(), transforms.ExpTransform())


def test_trap_21_wrappers_change_the_validation_of_what_they_wrap():
    """Independent shares the flag and MaskedMixture clears it, so what is derived has its own."""
    p = build("transformer", "bernoulli-raster", CONTEXT).condition(torch.randn(2, *CONTEXT))
    x, mask = p.sample(), torch.tensor([[True, False], [False, False]])

    def derive():
        return (
            p.expand((2,)),
            p.given(x, mask),
            p.with_ordering(ad.Ordering.raster()),
            p.with_families(fam.Bernoulli()),
        )

    for derived in (*derive(), p.marginal(mask), p.conditionals(x)):
        dist.MaskedMixture(torch.tensor(True), derived, derived)
        dist.Independent(derived, 1)._validate_args = False
    for untouched in (p, *derive()):
        with pytest.raises(ValueError, match="inside the support"):
            untouched.log_prob(x + 0.5)


def test_trap_22_kl_dispatch_is_by_subclass():
    """None is inherited: it is exact and of batch_shape, or Pyro is told to fall back on draws."""
    context = torch.randn(2, *CONTEXT)
    p, q = (build("made", f"bernoulli-{name}", CONTEXT) for name in ("raster", "random"))
    p, q = p.condition(context), q.condition(context)
    states = p.enumerate_support()
    log_p, log_q = p.log_prob(states), q.log_prob(states)
    exact = (log_p.exp() * (log_p - log_q)).sum(0)
    torch.testing.assert_close(kl_divergence(dist.Delta(states[3], event_dim=2), q), -log_q[3])
    prior, guide = (build("made", f"normal-{name}").condition() for name in ("raster", "random"))
    torch.manual_seed(1)
    loss = infer.TraceMeanField_ELBO().differentiable_loss(
        lambda: pyro.sample("x", prior), lambda: pyro.sample("x", guide)
    )
    torch.manual_seed(1)
    x = guide.rsample()
    torch.testing.assert_close(loss, guide.log_prob(x) - prior.log_prob(x))
    with pytest.raises(NotImplementedError, match=r"information\.kl_divergence"):
        kl_divergence(guide, prior)
    torch.testing.assert_close(kl_divergence(p, q), exact)
    torch.testing.assert_close(kl_divergence(p.to_event(1), q.to_event(1)), exact.sum())


# Objects and what they keep.


def test_trap_23_nothing_is_both_a_module_and_a_distribution():
    """The `__init__` of one empties the other, and a copy by `expand` has no submodules."""
    found = pkgutil.walk_packages(ad.__path__, "ardist.")
    members = [vars(importlib.import_module(module.name)).values() for module in found]
    classes = {each for values in members for each in values if isinstance(each, type)}
    assert {ad.AutoregressiveDistribution, networks.MADE} <= classes
    assert not [c for c in classes if issubclass(c, nn.Module) and issubclass(c, Distribution)]
    net = build("made", "normal-raster")
    assert net.condition().expand((3,)).network is net


@kinds
def test_trap_24_moments_are_read_only(kind):
    """Those that are not known say so, and nothing is assigned to their names."""
    p = of_kind(kind)
    for name in ("mean", "mode", "variance", "stddev"):
        with pytest.raises(NotImplementedError):
            getattr(p, name)
    with pytest.raises(NotImplementedError):
        p.conjugate_update(p)


@kinds
def test_trap_25_there_are_no_arguments_to_constrain(kind):
    """Without `arg_constraints` torch warns, and of those named `repr` wants tensors."""
    p = of_kind(kind)
    assert p.arg_constraints == {}
    assert repr(p).startswith(type(p).__name__)


@pytest.mark.parametrize(
    "family", [fam.Parametric(dist.Gumbel), fam.Gamma(), fam.TopK(fam.Categorical(3), 2)]
)
def test_trap_27_conditionals_are_not_checked_at_each_step(family, monkeypatch):
    """A check of a tensor waits for the device; the whole event is checked, once."""
    made, init = [], Distribution.__init__

    def recorded(self, *args, **kwargs):
        init(self, *args, **kwargs)
        made.append((type(self), self._validate_args))

    net = random_made(ad.Factorization(4, family), hidden_features=(8,))
    monkeypatch.setattr(Distribution, "__init__", recorded)
    p = ad.AutoregressiveDistribution(net, validate_args=True)
    p.log_prob(p.sample((3,)))
    p.conditionals(p.sample())
    assert len(made) > 1
    assert [cls for cls, checks in made if checks] == [ad.AutoregressiveDistribution]


def test_trap_30_the_default_order_is_not_random():
    """A network with an order of its own drawing cannot be built again to be loaded."""
    state = torch.get_rng_state()
    assert torch.equal(ad.Factorization((2, 3), fam.Normal()).ranks.flatten(), torch.arange(6))
    assert torch.equal(torch.get_rng_state(), state)
