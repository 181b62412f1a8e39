"""Autoregressive distributions as bijections between events and noise."""

from collections.abc import Callable, MutableMapping
from itertools import chain
from typing import Any
from weakref import ref

import torch
from pyro.distributions import TransformModule
from torch import Size, Tensor, nn
from torch.distributions import Transform, constraints
from torch.utils.weak import WeakTensorKeyDictionary

from ardist.decoding import Forced, step_widths
from ardist.distribution import AutoregressiveDistribution
from ardist.families import Family
from ardist.joint import unwrap
from ardist.layout import Layout
from ardist.shapes import as_integer, as_shape, check_tensor, check_type, leading

__all__ = ["AutoregressiveTransform", "Rosenblatt"]


# By noise that `inv` made, and for as long as that lives: of which transform and events it is, and
# the log abs(det) that the same pass gave.
_log_dets: MutableMapping[Tensor, tuple[ref[Transform], ref[Tensor], list[int], Tensor]] = (
    WeakTensorKeyDictionary()
)


class AutoregressiveTransform(TransformModule):
    """The bijection from noise to events that a network's conditionals make.

    Each block of x is a bijective function of its own noise z, under the parameters that the
    blocks before it give: loc + scale * z, say. Noise of the families' own law becomes draws of
    the network's distribution. That law is the standard normal for `Normal`, `LogNormal`, `Spline`
    and `MultivariateNormal`, the standard Laplace for `Laplace`, the standard logistic for
    `Logistic`, and that of the family inside for `Transformed`, `Independent` and `Tempered`. Then
    `TransformedDistribution(base, AutoregressiveTransform(network, context))` has the log_prob of
    `network.condition(context)`; with another base it is another distribution.

    From noise to x it goes step by step, by the network's decoder; from x to noise it takes one
    parallel pass, which also gives the `log_abs_det_jacobian` of that pair. So a stack in a
    TransformedDistribution is a masked autoregressive flow with a fast density (MAF, Papamakarios
    et al. 2017), and a stack of inverses, `.inv`, an inverse autoregressive flow with fast draws
    (IAF, Kingma et al. 2016). Networks of other orderings take turns. It is differentiable in both
    directions, once from noise to x, and never drops out, since a bijection is one function.

    The networks of this package start with small parameters for such families, so that a stack
    starts near the identity. In a stack, also bound the scales from below, as `min_scale` does
    here: each layer divides by a scale, so that one extreme row would otherwise grow from layer to
    layer until it overflows.

    It is a module with the network inside. With `cache_size=1` the last pair is kept, as torch
    has it, whatever happens to the parameters in between; by default nothing is.

    Args:
        network: a conditional network of such families, or one wrapped.
        context: as of `AutoregressiveDistribution`; its batch broadcasts with that of the events.
        cache_size: 0 or 1.

    Raises:
        ValueError: where draws of a family are not a bijection of real noise, or the context does
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

    def __init__(
        self, network: nn.Module, context: Tensor | None = None, *, cache_size: int = 0
    ) -> None:
        as_integer(cache_size, "cache_size", 0)
        super().__init__(cache_size=cache_size)  # type: ignore[no-untyped-call]
        p = AutoregressiveDistribution(network, context)
        without = [family for family in p.factorization.layout.distinct if not family.is_bijective]
        if without:
            raise ValueError(
                f"network: expected families whose draws are bijections of real noise, "
                f"got {without}"
            )
        self.network, self.context = network, context
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
        def value_of(layout: Layout, params: Tensor, z: Tensor) -> Tensor:
            return layout.from_noise(params, layout.split("value", z))

        def again(params: Tensor, blocks: Tensor, z: Tensor) -> Tensor:
            return value_of(p.factorization.layout, params, z)

        p = self._p
        return _drawn(p, _noise(p, "z", z), value_of, again)

    def _inverse(self, x: Tensor) -> Tensor:
        z, log_det = self._noise_and_log_det(x)
        if not torch.compiler.is_compiling():  # which finds by itself what is computed twice
            _log_dets[z] = ref(self), ref(x), self._state, log_det
        return z

    @property
    def _state(self) -> list[int]:
        """What differs where gradients are turned on or off, or parameters change in place."""
        own = (p for p in self.network.parameters() if not p.is_inference())
        return [torch.is_grad_enabled(), *(p._version for p in own)]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log abs(det dy/dx) of noise x and events y, which tell all: (*lead).

        Where x is what `inv` has just made of y, this is from the same pass of the network.
        """
        if not torch.compiler.is_compiling() and x in _log_dets:
            transform, events, state, log_det = _log_dets.pop(x)
            if transform() is self and events() is y and state == self._state:
                return log_det
        return self._noise_and_log_det(y, "y")[1]

    def _noise_and_log_det(self, x: Tensor, name: str = "x") -> tuple[Tensor, Tensor]:
        p = self._p
        blocks, params, lead = _pass(p, x, name)
        layout = p.factorization.layout
        each = _each(layout, lambda family, v, p: family.to_noise_and_log_det(p, v), blocks, params)
        noise, log_slopes = zip(*each, strict=True)
        log_det = p.joint.unrows(layout._join("block", [*log_slopes]).sum(-1), lead)
        return p.joint.events(layout._draws([*noise], params), lead), log_det

    def __repr__(self) -> str:
        p = self._p
        return (
            f"AutoregressiveTransform({type(unwrap(p.network)).__name__}, "
            f"batch_shape={tuple(p.batch_shape)}, event_shape={tuple(p.event_shape)})"
        )


class Rosenblatt(Transform):
    """Events to uniforms by the conditional CDFs, and back (Rosenblatt 1952).

    Each block goes through its own CDF given the blocks before it, so that draws of p become
    independent uniforms, which tells whether p describes some data (`information.calibration`
    looks block by block). To the uniforms it takes one parallel pass; back it goes step by step,
    by the decoder and the inverse CDFs: so low-discrepancy points become draws of p.

    A discrete block fills an interval of [0, 1], as long as its probability, from which each
    number leads back to it. A call gives the middle of that interval, and `randomized` a uniform
    in it, which is what makes draws uniform; with such blocks this is no bijection, and has no
    Jacobian.

    It is differentiable to the uniforms as far as the CDFs are, and back, once, where families
    have `rsample`. It never drops out.

    Args:
        p: a distribution over blocks of one number each, with CDFs, none of them observed.
        cache_size: 0 or 1, as for torch's transforms.

    Raises:
        ValueError: where a family has no CDF, or blocks are observed.

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
        distinct = p.factorization.layout.distinct
        if without := [f for f in distinct if f.event_shape or not f.has_cdf]:
            raise ValueError(f"p: expected families of one number with a CDF, got {without}")
        if p.joint.observed is not None:
            raise ValueError("p: expected no observed blocks, which have nothing uniform")
        self.p = p
        self.bijective = not any(family.support.is_discrete for family in distinct)
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
        """Uniforms that lead back to x, each drawn anew where a block is discrete.

        Those of draws of p are uniform on the unit cube (Brockwell 2007, "Universal residuals").
        """
        check_tensor(x, "x")
        reference = self.p.joint.reference.new_empty(_full_shape(self.p, "x", x.shape))
        return self._uniforms(x, torch.rand_like(reference))

    def _call(self, x: Tensor) -> Tensor:
        half = self.p.joint.reference.new_tensor(0.5)
        return self._uniforms(x, half.expand(_full_shape(self.p, "x", x.shape)))

    def _uniforms(self, x: Tensor, share: Tensor) -> Tensor:
        """Where x is in its CDFs; `share` of the interval of a discrete block lies above that."""

        def below(family: Family, value: Tensor, params: Tensor, share: Tensor) -> Tensor:
            cdf = family.cdf(params, value)
            if not family.support.is_discrete:
                return cdf
            return (cdf - share * family.log_prob(params, value).exp()).clamp(0, 1)

        p = self.p
        fac, layout = p.factorization, p.factorization.layout
        blocks, params, lead = _pass(p, x)
        shares = p.joint.blocks(share, lead)
        u = layout._join("block", _each(layout, below, blocks, params, shares))
        if fac.end is not None:  # what follows an end is certain
            u = torch.where(fac.ended(blocks, p.joint.row_ranks(lead)), 1 - shares, u)
        return p.joint.events(u, lead)

    def _inverse(self, u: Tensor) -> Tensor:
        def value_of(layout: Layout, params: Tensor, u: Tensor) -> Tensor:
            # At 0 and 1 themselves values would be infinite.
            inside = u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps / 2)
            each = _each(layout, lambda family, u, p: family.icdf(p, u), inside, params)
            return layout._draws(each, params)

        def again_of(family: Family, value: Tensor, params: Tensor, u: Tensor) -> Tensor:
            if not family.has_rsample:
                return value
            density = family.log_prob(params, value).detach().exp()
            return family.pathwise(params, value) + (u - u.detach()) / density

        def again(params: Tensor, blocks: Tensor, u: Tensor) -> Tensor:
            return layout._draws(_each(layout, again_of, blocks, params, u), params)

        p = self.p
        layout = p.factorization.layout
        has_gradients = any(family.has_rsample for family in layout.distinct)
        given = (_noise(p, "u", u), value_of, again if has_gradients else None)
        return p.joint.replaced(_drawn, p, *given)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log density of events x, whatever their uniforms y: (*lead).

        Raises:
            NotImplementedError: where a block is discrete.
        """
        if not self.bijective:
            families = self.p.factorization.layout.distinct
            discrete = [family for family in families if family.support.is_discrete]
            raise NotImplementedError(f"log_abs_det_jacobian: no bijection of draws of {discrete}")
        self.p.check_value(x, "x")
        with self.p.joint.unwrapped.eval_mode():
            return self.p.log_prob(x)

    def __repr__(self) -> str:
        return f"Rosenblatt({self.p!r})"


def _full_shape(
    p: AutoregressiveDistribution | AutoregressiveTransform, name: str, shape: Size
) -> Size:
    """That of events under all of p's batch, from (*lead, *event_shape)."""
    lead = leading(as_shape(shape, name), p.event_shape, p.batch_shape, name)
    return Size(torch.broadcast_shapes(lead, p.batch_shape)) + p.event_shape


def _noise(p: AutoregressiveDistribution, name: str, given: Tensor) -> Tensor:
    """Noise for events, under all of p's batch."""
    shape = _full_shape(p, name, given.shape)
    p.joint.check_kind(name, given, exact=True)
    return given.expand(shape)


def _pass(p: AutoregressiveDistribution, x: Tensor, name: str = "x") -> tuple[Tensor, Tensor, Size]:
    """Blocks and parameters of all rows under all of p's batch, and its shape; without dropout."""
    x = p.checked(x, name)
    with p.joint.unwrapped.eval_mode():
        return p.joint.replaced(p.joint.teach, x.expand(_full_shape(p, "x", x.shape)))


def _each(
    layout: Layout, function: Callable[..., Any], values: Tensor, params: Tensor, *more: Tensor
) -> list[Any]:
    """A function of each distinct family, its values, parameters and more that is like values."""
    given = (values, *more)
    parts = zip(*(layout.split("value", rows) for rows in given), strict=True)
    several = zip(layout.distinct, layout.split("param", params), parts, strict=True)
    return [function(family, part[0], own, *part[1:]) for family, own, part in several]


ValueOf = Callable[[Layout, Tensor, Tensor], Tensor]
Again = Callable[[Tensor, Tensor, Tensor], Tensor]


def _drawn(
    p: AutoregressiveDistribution, noise: Tensor, value_of: ValueOf, again: Again | None
) -> Tensor:
    """The events that this noise gives.

    Args:
        noise: (*lead, *event_shape).
        value_of: from a layout, parameters and noise of its blocks to their values.
        again: from all parameters, blocks and noise to the same blocks, with gradients.
    """
    joint, lead = p.joint, p.joint.lead(noise)
    rows = joint.blocks(noise, lead)
    if rows.shape[0] == 0:
        return noise.to(p.factorization.layout.dtype(noise.dtype))
    in_turn = _by_decoder if joint.ranks is None else _by_passes
    with joint.as_drawn():
        with torch.no_grad():
            blocks = in_turn(p, lead, rows, value_of)
        if again is not None and joint.has_gradients(noise):
            blocks, _ = joint.attach_rows(lead, blocks, lambda params, x: again(params, x, rows))
    return joint.events(blocks, lead)


def _by_decoder(
    p: AutoregressiveDistribution, lead: Size, noise: Tensor, value_of: ValueOf
) -> Tensor:
    """Step by step."""
    fac, order = p.factorization, list(chain(*p.factorization.steps))
    decoder, forced = p.joint.decoder(noise.shape[0]), Forced(fac, None)
    given = fac.layout.gather_blocks("value", noise, order).split(step_widths(fac), 1)
    pieces: list[Tensor] = []
    for step, layout in enumerate(fac.step_layouts):
        params = decoder.step(pieces[-1] if pieces else None)
        pieces.append(forced.apply(value_of(layout, params, given[step]), step, step + 1))
        forced.take(pieces[-1])
    drawn = torch.cat(pieces, 1)
    return fac.layout.scatter_blocks(torch.empty_like(drawn), order, drawn)


def _by_passes(
    p: AutoregressiveDistribution, lead: Size, noise: Tensor, value_of: ValueOf
) -> Tensor:
    """By parallel passes, each of which makes one more step right: rows have their own orders."""
    fac, layout, ranks = p.factorization, p.factorization.layout, p.joint.row_ranks(lead)
    blocks = layout.placeholder(noise).expand(noise.shape[0], *layout.value_shape)
    for _ in range(fac.num_blocks):
        before, blocks = blocks, value_of(layout, p.joint.run(blocks, ranks), noise)
        if fac.end is not None and fac.pad is not None:
            blocks = blocks.masked_fill(fac.ended(blocks, ranks), fac.pad)
        if torch.equal(before, blocks):
            break
    return blocks
