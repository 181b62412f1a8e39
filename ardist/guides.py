"""A guide for Pyro whose posterior is autoregressive."""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoContinuous, init_to_median
from pyro.infer.inspect import get_dependencies
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import AffineTransform, biject_to

from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.families import Family, Normal
from ardist.networks.made import MADE
from ardist.ordering import Ordering
from ardist.shapes import as_callable, as_scale, as_size, as_tensor, described

__all__ = ["AutoAutoregressive"]

_NORMAL = Normal()
_DRAWS = 10_000  # from which quantiles are estimated


class AutoAutoregressive(AutoContinuous):
    """A guide for Pyro: one autoregressive distribution over all continuous latents of a model.

    In unconstrained space the latents are `loc + scale * z`. loc and scale are learned, for each
    element of the latent vector, and z is drawn from a MADE whose conditionals have any form on
    the real line. So the guide can be any Gaussian, as `AutoMultivariateNormal` can, and beyond
    that follow funnels (a scale that depends on other latents), skew and several modes.
    Draws have exact gradients, found in one sweep back over the steps.

    With `ordering="model"` the guide follows the model's graph, as `pyro.infer.inspect` finds it.
    Two elements are neighbours where they enter one factor of the joint, within the same slice of
    each plate (or anywhere in it, where a factor takes in other slices, as a sum over them does:
    that is tried by gradients at a draw). The element with the fewest neighbours is drawn last,
    given these; the neighbours become neighbours of each other, and so on with the rest
    (elimination by minimum degree, as for sparse Cholesky factors). This leaves out only what the
    posterior does not need, for any values of the observations (Webb et al. 2018, "Faithful
    inversion of generative models"). In a hierarchical model what is local to a plate is drawn at
    the end in one step, given what is global. Latents hidden from a guide by `poutine.block` are
    not in the graph, and neither is what reaches a factor through Python's numbers or branches.

    Like Pyro's own guides it makes its parameters when it is first called: the posterior starts
    with independent elements around the values of `init_loc_fn`, about `init_scale` wide. As
    with every `AutoContinuous`, `TraceMeanField_ELBO` is wrong where latents are constrained: its
    KL from a Delta (pyro-ppl 1.9.2, `distributions/kl.py`) leaves out the Jacobian.

    Args:
        model: a Pyro model whose structure does not change, all of whose latents are continuous.
        family: of every conditional: one number on the real line whose draws have gradients, such
            as `Normal`, `StudentT`, `Spline` or `Mixture(Normal(), 4)`.
        ordering: in which order the elements of the latent vector are drawn, and on which others
            each depends: an `Ordering`, "model" for the model's graph, or None for all on all
            before them, in the order of the model's statements.
        hidden_features: of the MADE; by default two layers of 64 units, or of 4 for each distinct
            set of dependencies if that is more. An element whose set has no unit, because layers
            are narrower than there are sets, depends on others directly: linearly.
        init_loc_fn: see Pyro's documentation of autoguides.
        init_scale: of the posterior at first.

    Raises:
        ValueError: where the family or an argument is off; at the first call, where a latent is
            discrete or inside a plate that is subsampled, or the ordering is of another length.

    >>> import pyro, pyro.distributions as dist, torch
    >>> import ardist as ad
    >>> def funnel():
    ...     v = pyro.sample("v", dist.Normal(0.0, 3.0))
    ...     with pyro.plate("nine", 9):
    ...         pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
    >>> guide = ad.guides.AutoAutoregressive(funnel, ordering="model")
    >>> svi = pyro.infer.SVI(funnel, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    >>> losses = [svi.step() for _ in range(3)]
    >>> guide.network.factorization.dependencies.sum(-1)  # v on nothing, each x on v
    tensor([0, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    >>> guide.get_posterior().sample((100,)).shape  # of the latent vector
    torch.Size([100, 10])
    >>> guide.quantiles([0.05, 0.95])["x"].shape
    torch.Size([2, 9])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        family: Family = _NORMAL,
        *,
        ordering: Ordering | str | None = None,
        hidden_features: int | Sequence[int] | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
    ) -> None:
        as_callable(model, "model")
        as_callable(init_loc_fn, "init_loc_fn")
        if hidden_features is not None:
            as_size(hidden_features, "hidden_features")
        super().__init__(model, init_loc_fn=init_loc_fn)  # type: ignore[no-untyped-call]
        is_real = isinstance(family, Family) and isinstance(family.support, type(constraints.real))
        if not is_real or not family.has_rsample:
            raise ValueError(
                f"family: expected one of a number on the real line with rsample, got {family}"
            )
        if not (ordering is None or ordering == "model" or isinstance(ordering, Ordering)):
            raise ValueError(f'ordering: expected an Ordering, "model" or None, got {ordering!r}')
        self._family, self._ordering = family, ordering
        self._init_scale = as_scale(init_scale, "init_scale")
        self._hidden_features = hidden_features

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)  # type: ignore[no-untyped-call]
        for name, frames in self._cond_indep_stacks.items():
            for frame in frames:
                if frame.full_size not in (None, frame.size):
                    raise ValueError(
                        f"model: expected no latents inside subsampled plates, got {name!r} in "
                        f"{frame.name!r} with {frame.size} of {frame.full_size}"
                    )
        loc: Tensor = self._init_loc()  # type: ignore[no-untyped-call]
        self.loc: Any = nn.Parameter(loc)
        scale = torch.full_like(loc, self._init_scale)
        self.scale: Any = PyroParam(scale, constraints.softplus_positive)
        ordering = self._ordering
        if not isinstance(ordering, Ordering | None):
            ordering = Ordering.from_graph(_eliminated(self._neighbours(*args, **kwargs)))
        factorization = Factorization(self.latent_dim, self._family, ordering=ordering)
        hidden_features = self._hidden_features
        if hidden_features is None:
            sets = torch.unique(factorization.dependencies, dim=0)
            hidden_features = (max(64, 4 * sets.shape[0]),) * 2
        self.network = MADE(factorization, hidden_features=hidden_features).to(loc)
        for layer in (self.network.head, self.network.direct):
            if layer is not None:  # biases stay, or components of a mixture would be the same
                nn.init.zeros_(layer.weight)

    def _neighbours(self, *args: Any, **kwargs: Any) -> Tensor:
        """Which elements of the latent vector enter one factor of the joint: (n, n) bool."""
        shapes = self._unconstrained_shapes
        depends: Any = poutine.block(get_dependencies)(self.model, args, kwargs)
        drawn = poutine.block(poutine.trace(self.model).get_trace)(*args, **kwargs)
        values = {name: drawn.nodes[name]["value"].detach().requires_grad_() for name in shapes}
        with torch.enable_grad():
            given = poutine.trace(poutine.condition(self.model, data=values))
            trace: Any = poutine.block(given.get_trace)(*args, **kwargs)
            trace.compute_log_prob()
        ends = accumulate((shape.numel() for shape in shapes.values()), initial=0)
        elements = {
            name: torch.arange(*part) for name, part in zip(shapes, pairwise(ends), strict=True)
        }
        frames_of = {name: trace.nodes[name]["cond_indep_stack"] for name in shapes}
        slices: dict[str, Tensor] = {}  # by plate, in which of it each element is, or -1
        for name, shape in shapes.items():
            site = trace.nodes[name]
            event_dim = len(shape) - (site["value"].dim() - site["fn"].event_dim)
            for frame in frames_of[name]:
                index = torch.arange(frame.size).reshape(-1, *(event_dim - frame.dim - 1) * (1,))
                place = slices.setdefault(frame.name, torch.full((self.latent_dim,), -1))
                place[elements[name]] = index.expand(shape).flatten()
        result = torch.zeros(self.latent_dim, self.latent_dim, dtype=torch.bool)
        for name, sources in depends["prior_dependencies"].items():
            latents = [source for source in sources if source in elements]
            parts = [elements[latent] for latent in latents]
            inside = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
            joined = torch.ones(inside.shape[0], inside.shape[0], dtype=torch.bool)
            for frame in trace.nodes[name]["cond_indep_stack"]:
                own = [trace.nodes[latent] for latent in latents if frame in frames_of[latent]]
                if own and not _mixes(trace.nodes[name], frame, own):
                    place = slices[frame.name][inside]
                    outside = place < 0
                    joined &= (place == place[:, None]) | outside | outside[:, None]
            result[inside[:, None], inside] |= joined
        return result

    def get_base_dist(self) -> AutoregressiveDistribution:
        """The distribution of z, which is autoregressive: event_shape (latent_dim,)."""
        return self.network.condition()

    def get_transform(self, *args: Any, **kwargs: Any) -> AffineTransform:
        """From z to the unconstrained latents: `loc + scale * z`."""
        return AffineTransform(self.loc, self.scale, event_dim=1)

    def get_posterior(self, *args: Any, **kwargs: Any) -> dist.TransformedDistribution:
        """The distribution of the unconstrained latents: event_shape (latent_dim,)."""
        transform = self.get_transform(*args, **kwargs)
        return dist.TransformedDistribution(self.get_base_dist(), transform)

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Each latent's median, estimated as by `quantiles`."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, **kwargs).items()}

    @torch.no_grad()
    def quantiles(
        self, quantiles: Sequence[float] | Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Each latent's quantiles, (number of quantiles, *its shape), estimated from 10,000 draws.

        They are taken in unconstrained space, element by element, and mapped from there.
        """
        levels = as_tensor(quantiles, "quantiles")
        inside = (levels >= 0) & (levels <= 1)
        if levels.dim() != 1 or not (inside.any() and inside.all()):
            raise ValueError(
                f"quantiles: expected numbers within [0, 1], got {described(quantiles)}"
            )
        draws = self.get_posterior(*args, **kwargs).sample((_DRAWS,))
        levels = levels.to(draws)
        result: dict[str, list[Tensor]] = {}
        for latent in draws.quantile(levels, 0):
            for site, unconstrained in self._unpack_latent(latent):  # type: ignore[no-untyped-call]
                value = biject_to(site["fn"].support)(unconstrained)
                result.setdefault(site["name"], []).append(value)
        return {name: torch.stack(values) for name, values in result.items()}


def _mixes(factor: Any, plate: Any, latents: Sequence[Any]) -> bool:
    """Whether a factor's slices of a plate take in latents of other slices.

    Found by gradients at a draw: where they do not, weights of the slices come back with each.
    """
    log_prob, values = factor["log_prob"], [latent["value"] for latent in latents]
    if not log_prob.requires_grad:
        return False
    weights = torch.rand(plate.size).to(log_prob).reshape(-1, *(1,) * (-plate.dim - 1))

    def slopes(total: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(total, values, retain_graph=True, materialize_grads=True)

    for latent, plain, weighted in zip(
        latents, slopes(log_prob.sum()), slopes((weights * log_prob).sum()), strict=True
    ):
        each = weights.reshape(*weights.shape, *(1,) * latent["fn"].event_dim)
        if not torch.allclose(weighted, each * plain, rtol=1e-3, atol=1e-6):
            return True
    return False


def _eliminated(neighbours: Tensor) -> Tensor:
    """Parents for each element of a Markov random field, (n, n) bool, by minimum degree."""
    near = neighbours.clone().fill_diagonal_(False)
    parents, degrees = torch.zeros_like(near), near.sum(-1)
    for _ in range(near.shape[0]):
        last = near.shape[0] - 1 - int(degrees.flip(0).argmin())  # of equals, the last one
        around = near[last].nonzero().squeeze(-1)
        parents[last, around] = True
        near[last], near[:, last] = False, False
        near[around[:, None], around] = True
        near[around, around] = False
        degrees[around] = near[around].sum(-1)
        degrees[last] = near.shape[0]  # done: more than any that is left
    return parents
