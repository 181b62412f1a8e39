"""Autoregressive distributions as bijections between events and noise."""

from collections.abc import Callable, MutableMapping
from weakref import ref

import torch
from pyro.distributions import TransformModule
from torch import Size, Tensor, nn
from torch.distributions import Transform, constraints
from torch.utils.weak import WeakTensorKeyDictionary

from ardist.batch import Batch
from ardist.bound_network import unwrap
from ardist.distribution import AutoregressiveDistribution
from ardist.families import Family
from ardist.families.restricted import Restricted
from ardist.gradients import has_gradients, reparameterized_rows
from ardist.layout import Layout
from ardist.rollout import Rollout, Step
from ardist.scoring import teacher_forced_params
from ardist.shapes import as_integer, as_shape, check_tensor, check_type, holds, leading

__all__ = ["AutoregressiveTransform", "Rosenblatt"]


# For each noise tensor that `inv` has returned, while it is alive: its transform, its events, the
# state of the transform, and the log abs(det) of the same pass.
_log_dets: MutableMapping[Tensor, tuple[ref[Transform], ref[Tensor], list[int], Tensor]] = (
    WeakTensorKeyDictionary()
)


class AutoregressiveTransform(TransformModule):
    """The bijection from noise z to events x that a network's conditionals define.

    Each block of x is a bijective function of its own noise, such as loc + scale * z, with
    parameters computed from the earlier blocks. Noise from the families' own base distribution
    becomes draws of the network's distribution. This base is the standard normal for `Normal`,
    `LogNormal`, `Spline` and `MultivariateNormal`, the standard Laplace for `Laplace`, the standard
    logistic for `Logistic`, and the base of the inner family for `Transformed`, `Independent` and
    `Tempered`. With this base, `TransformedDistribution(base, AutoregressiveTransform(network,
    context))` has the log_prob of `network.condition(context)`. With another base it is another
    distribution.

    The direction from noise to x takes the steps of the network's decoder. The direction from x to
    noise takes one parallel pass, which also gives the `log_abs_det_jacobian` of the pair. A stack
    in a TransformedDistribution is therefore a masked autoregressive flow with a fast density (MAF,
    Papamakarios et al. 2017), and a stack of inverses, `.inv`, is an inverse autoregressive flow
    with fast draws (IAF, Kingma et al. 2016). Alternate the orderings of the networks. Both
    directions are differentiable, but the direction from noise to x only once. Dropout is never
    active, because a bijection is one function.

    The networks of this package start with small parameters for such families, so a new stack is
    close to the identity. Also bound the scales from below, as `min_scale` does here: each layer
    divides by a scale, and without a bound one extreme row can grow from layer to layer until it
    overflows.

    The transform is a module that contains the network. With `cache_size=1` it caches the last
    pair, as torch's transforms do, even if parameters change. By default it caches nothing.

    Args:
        network: a conditional network with such families, wrapped or not.
        context: as for `AutoregressiveDistribution`. Its batch dimensions broadcast with the
            leading dimensions of the events.
        cache_size: 0 or 1.

    Raises:
        ValueError: if draws of a family are not a bijection of real noise, or the context does
            not fit.

    >>> import torch, ardist as ad
    >>> from pyro.distributions import Normal, TransformedDistribution
    >>> _ = torch.manual_seed(0)
    >>> layers = [
    ...     ad.transforms.AutoregressiveTransform(
    ...         ad.networks.MADE(
    ...             ad.Factorization(4, ad.families.Normal(min_scale=1e-3), ordering=ordering),
    ...             hidden_features=(16,),
    ...         )
    ...     )
    ...     for ordering in (ad.Ordering.raster(), ad.Ordering.reverse())
    ... ]
    >>> noise = Normal(0.0, 1.0).expand((4,)).to_event(1)
    >>> maf = TransformedDistribution(noise, layers)
    >>> iaf = TransformedDistribution(noise, [layer.inv for layer in layers])
    >>> maf.log_prob(iaf.rsample((5,))).shape
    torch.Size([5])
    """

    bijective = True
    context: Tensor | None

    def __init__(
        self, network: nn.Module, context: Tensor | None = None, *, cache_size: int = 0
    ) -> None:
        as_integer(cache_size, "cache_size", 0)
        super().__init__(cache_size=cache_size)  # type: ignore[no-untyped-call]
        p = AutoregressiveDistribution(network, context)
        without = [f for f in p.factorization.conditionals.distinct if not f.is_bijective]
        if without:
            raise ValueError(
                f"network: expected families whose draws are bijections of real noise, "
                f"got {without}"
            )
        self.network = network
        self.register_buffer("context", None, persistent=False)  # so that it moves with the network
        self.context = context
        self.batch_shape, self.event_shape = p.batch_shape, p.event_shape
        self.domain = constraints.independent(constraints.real, len(p.event_shape))
        self.codomain = p.support

    @property
    def _p(self) -> AutoregressiveDistribution:
        return AutoregressiveDistribution(self.network, self.context, validate_args=False)

    def with_cache(self, cache_size: int = 1) -> "AutoregressiveTransform":
        if as_integer(cache_size, "cache_size", 0) == self._cache_size:
            return self
        return AutoregressiveTransform(self.network, self.context, cache_size=cache_size)

    def forward_shape(self, shape: Size) -> Size:
        return _full_shape(self, "shape", shape)

    inverse_shape = forward_shape

    def _call(self, z: Tensor) -> Tensor:
        def from_noise(layout: Layout, params: Tensor, z: Tensor) -> Tensor:
            return layout.from_noise(params, layout.split("value", z))

        def differentiable(layout: Layout, params: Tensor, z: Tensor, blocks: Tensor) -> Tensor:
            return from_noise(layout, params, z)

        p = self._p
        return _drawn(p, _noise(p, "z", z), from_noise, differentiable)

    def _inverse(self, x: Tensor) -> Tensor:
        z, log_det = self._noise_and_log_det(x)
        if not torch.compiler.is_compiling():  # a compiler merges repeated computations by itself
            _log_dets[z] = ref(self), ref(x), self._state, log_det
        return z

    @property
    def _state(self) -> list[int]:
        """Numbers that differ if gradients are turned on or off, or a tensor changes in place."""
        own = (p for p in (*self.parameters(), *self.buffers()) if not p.is_inference())
        return [torch.is_grad_enabled(), *(p._version for p in own)]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log abs(det dy/dx) of noise x and events y, computed from y: (*lead).

        If `inv` has just computed x from y, the result is from the same pass of the network.
        """
        if not torch.compiler.is_compiling() and x in _log_dets:
            transform, events, state, log_det = _log_dets.pop(x)
            if transform() is self and events() is y and state == self._state:
                return log_det
        return self._noise_and_log_det(y, "y")[1]

    def _noise_and_log_det(self, x: Tensor, name: str = "x") -> tuple[Tensor, Tensor]:
        p = self._p
        batch, blocks, params = _pass(p, x, name)
        layout = batch.layout
        each = layout.map(
            lambda family, *given: family.to_noise_and_log_det(*given),
            ("param", params),
            ("value", blocks),
        )
        noise, log_slopes = zip(*each, strict=True)
        log_det = batch.unflatten(layout.join("block", [*log_slopes]).sum(-1))
        return batch.events(layout.join_values([*noise], params)), log_det

    def __repr__(self) -> str:
        p = self._p
        return (
            f"AutoregressiveTransform({type(unwrap(p.network)).__name__}, "
            f"batch_shape={tuple(p.batch_shape)}, event_shape={tuple(p.event_shape)})"
        )


class Rosenblatt(Transform):
    """The transform from events to uniforms by the conditional CDFs (Rosenblatt 1952).

    It applies to each block its CDF given the earlier blocks, in one parallel pass. Draws of p
    become independent uniforms, so uniformity on data is a test of p (`information.calibration`
    tests it block by block). The inverse takes the decoder's steps and the inverse CDFs. It turns
    low-discrepancy points into draws of p.

    The CDF of a discrete block jumps: each value corresponds to an interval of [0, 1] whose length
    is the probability of the value, and the inverse maps every number of the interval to the value.
    A call returns the middle of the interval. `randomized` returns a uniform number in it, so that
    draws of p become uniform. With discrete blocks the transform is not a bijection and has no
    Jacobian.

    The transform is differentiable if the CDFs are. Its inverse is differentiable once, if families
    have `rsample`. Dropout is never active.

    Args:
        p: a distribution without observed blocks, whose blocks have one number each and a CDF.
        cache_size: 0 or 1, as for torch's transforms.

    Raises:
        ValueError: if a family has no CDF, or blocks are observed.

    >>> import torch, ardist as ad
    >>> _ = torch.manual_seed(0)
    >>> fac = ad.Factorization.columns(a=ad.families.Normal(), b=ad.families.Bernoulli())
    >>> p = ad.networks.MADE(fac, hidden_features=(8,)).condition()
    >>> uniforms = ad.transforms.Rosenblatt(p)
    >>> x = p.sample((5,))
    >>> u = uniforms.randomized(x)
    >>> torch.allclose(uniforms.inv(u), x, atol=1e-5)
    True
    """

    def __init__(self, p: AutoregressiveDistribution, *, cache_size: int = 0) -> None:
        as_integer(cache_size, "cache_size", 0)
        super().__init__(cache_size=cache_size)
        check_type(p, AutoregressiveDistribution, "p")
        distinct = p.factorization.conditionals.distinct
        if without := [f for f in distinct if f.event_shape or not f.has_cdf]:
            raise ValueError(f"p: expected families of one number with a CDF, got {without}")
        if p.evidence is not None:
            raise ValueError("p: expected no observed blocks, which have no uniform transform")
        self.p = p
        discrete = any(family.support.is_discrete for family in distinct)
        self.bijective = not discrete and p.factorization.rule is None
        self.domain = p.support
        self.codomain = constraints.independent(constraints.unit_interval, len(p.event_shape))

    def with_cache(self, cache_size: int = 1) -> "Rosenblatt":
        if as_integer(cache_size, "cache_size", 0) == self._cache_size:
            return self
        return Rosenblatt(self.p, cache_size=cache_size)

    def forward_shape(self, shape: Size) -> Size:
        return _full_shape(self.p, "shape", shape)

    inverse_shape = forward_shape

    def randomized(self, x: Tensor) -> Tensor:
        """Uniforms that the inverse maps to x, random for discrete blocks: (*lead, *event_shape).

        For draws of p they are uniform on the unit cube (Brockwell 2007, "Universal residuals").
        """
        check_tensor(x, "x")
        reference = self.p.bound.reference.new_empty(_full_shape(self.p, "x", x.shape))
        return self._uniforms(x, torch.rand_like(reference))

    def _call(self, x: Tensor) -> Tensor:
        half = self.p.bound.reference.new_tensor(0.5)
        return self._uniforms(x, half.expand(_full_shape(self.p, "x", x.shape)))

    def _uniforms(self, x: Tensor, share: Tensor) -> Tensor:
        """The CDFs at x, minus a `share` of the probability of each discrete block."""

        def below(family: Family, params: Tensor, value: Tensor, share: Tensor) -> Tensor:
            cdf = family.cdf(params, value)
            if not family.support.is_discrete and not isinstance(family, Restricted):
                return cdf
            return (cdf - share * family.mass(params, value)).clamp(0, 1)

        batch, blocks, params = _pass(self.p, x)
        shares = batch.blocks(share)
        each = batch.layout.map(below, ("param", params), ("value", blocks), ("value", shares))
        return batch.events(batch.layout.join("block", each))

    def _inverse(self, u: Tensor) -> Tensor:
        check_tensor(u, "u")

        def from_uniforms(layout: Layout, params: Tensor, u: Tensor) -> Tensor:
            # At exactly 0 and 1, values would be infinite.
            inside = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2)
            rows = (("param", params), ("value", inside))
            each = layout.map(lambda family, *given: family.icdf(*given), *rows)
            return layout.join_values(each, params)

        def of_block(family: Family, params: Tensor, value: Tensor, u: Tensor) -> Tensor:
            if not family.has_rsample:
                return value
            density = family.log_prob(params, value).detach().exp()
            return family.pathwise(params, value) + (u - u.detach()) / density

        def differentiable(layout: Layout, params: Tensor, u: Tensor, blocks: Tensor) -> Tensor:
            rows = (("param", params), ("value", blocks), ("value", u))
            return layout.join_values(layout.map(of_block, *rows), params)

        if not holds((u >= 0) & (u <= 1)):
            outside = u[~((u >= 0) & (u <= 1))][0].item()
            raise ValueError(f"u: expected numbers within [0, 1], got {outside}")
        p = self.p
        has_rsample = any(family.has_rsample for family in p.factorization.conditionals.distinct)
        given = (_noise(p, "u", u), from_uniforms, differentiable if has_rsample else None)
        return p.bound.with_params(_drawn, p, *given)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log density of events x, in nats: (*lead). The uniforms y are not used.

        Raises:
            NotImplementedError: if a block is discrete, or p has a rule.
        """
        if not self.bijective:
            families = self.p.factorization.layout.distinct
            discrete = [family for family in families if family.support.is_discrete]
            what = f"of {discrete}" if discrete else f"under {self.p.factorization.rule}"
            raise NotImplementedError(f"log_abs_det_jacobian: no bijection of draws {what}")
        self.p.check_value(x, "x")
        with self.p.bound.unwrapped.eval_mode():
            return self.p.log_prob(x)

    def __repr__(self) -> str:
        return f"Rosenblatt({self.p!r})"


def _full_shape(
    p: AutoregressiveDistribution | AutoregressiveTransform, name: str, shape: Size
) -> Size:
    """The shape of events (*lead, *event_shape) after broadcasting with p's batch."""
    lead = leading(as_shape(shape, name), p.event_shape, p.batch_shape, name)
    return Size(torch.broadcast_shapes(lead, p.batch_shape)) + p.event_shape


def _noise(p: AutoregressiveDistribution, name: str, given: Tensor) -> Tensor:
    """Noise for events, broadcast to p's batch."""
    check_tensor(given, name)
    shape = _full_shape(p, name, given.shape)
    p.bound.check_kind(name, given, exact=True)
    return given.expand(shape)


def _pass(
    p: AutoregressiveDistribution, x: Tensor, name: str = "x"
) -> tuple[Batch, Tensor, Tensor]:
    """All rows of events x, their blocks and their parameters, without dropout."""
    x = p.checked(x, name)
    x = x.expand(_full_shape(p, "x", x.shape))
    batch = p.batch_of(x)
    with p.bound.unwrapped.eval_mode():
        return batch, *p.bound.with_params(teacher_forced_params, batch, x)


def _drawn(
    p: AutoregressiveDistribution,
    noise: Tensor,
    from_noise: Callable[[Layout, Tensor, Tensor], Tensor],
    differentiable: Callable[[Layout, Tensor, Tensor, Tensor], Tensor] | None,
) -> Tensor:
    """Maps noise to events, step by step.

    Args:
        p: the distribution.
        noise: (*lead, *event_shape).
        from_noise: maps a layout, parameters and the noise of blocks to the values of the blocks.
        differentiable: maps a layout, parameters, noise and values to the same values, with
            gradients.
    """
    batch = p.batch_of(noise)
    rows, layout = batch.blocks(noise), batch.layout
    keeps = has_gradients(batch, noise)
    if batch.num_rows == 0:
        nothing = noise.to(layout.dtype(noise.dtype))
        if differentiable is not None and keeps:  # zero, with its gradients
            nothing = nothing + batch.forward(rows).sum()
        return nothing

    def values_of(rollout: Rollout, step: Step) -> Tensor:
        own = rollout.part(rows, step)
        return step.draw(lambda layout, params: from_noise(layout, params, own))

    with p.bound.eval_mode():
        with torch.no_grad():
            rollout = Rollout(batch, windows=True)
            for step in rollout:
                step.accept(values_of(rollout, step))
            blocks = rollout.drawn
        if differentiable is not None and keeps:
            function = differentiable
            blocks, _ = reparameterized_rows(
                batch, blocks, lambda params, x: function(layout, params, rows, x)
            )
    return batch.events(blocks)
