"""A guide for Pyro with an autoregressive posterior."""

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
from torch.distributions import AffineTransform, Transform, biject_to

from ardist.distribution import AutoregressiveDistribution
from ardist.factorization import Factorization
from ardist.families import Family, Normal
from ardist.networks.made import MADE
from ardist.ordering import Ordering
from ardist.shapes import as_callable, as_scale, as_size, as_tensor, described

__all__ = ["AutoAutoregressive"]

_NORMAL = Normal()
_NUM_DRAWS = 10_000  # for estimates of quantiles


class AutoAutoregressive(AutoContinuous):
    """A guide for Pyro: one autoregressive distribution over all continuous latents of a model.

    In unconstrained space the latents are `loc + scale * z`. The vectors loc and scale are learned,
    and z is drawn from a MADE with conditionals of any family on the real line. So the guide
    includes all Gaussians, as `AutoMultivariateNormal` does, and also models funnels (a scale that
    depends on other latents), skew and several modes. Draws have exact gradients, which are
    computed in one sweep over the steps.

    With `ordering="model"` the dependencies follow from the model's graph, which
    `pyro.infer.inspect` finds. Two elements are neighbors if they enter the same factor of the
    joint distribution, within the same slice of each plate. If a factor combines slices of a plate,
    for example by a sum, elements of different slices are neighbors too, which is detected by
    gradients at a draw. The element with the fewest neighbors is drawn last, given its neighbors.
    These become neighbors of each other, and the same is repeated with the remaining elements
    (elimination by minimum degree, as for sparse Cholesky factors). Only dependencies that the
    posterior does not need are omitted, for any values of the observations (Webb et al. 2018,
    "Faithful inversion of generative models"). In a hierarchical model the local latents of a plate
    are drawn last in one step, given the global latents. The graph contains neither latents that
    `poutine.block` hides from the guide nor dependencies through Python numbers or branches.

    As in Pyro's own guides, the parameters are created in the first call. The initial posterior has
    independent elements around the values of `init_loc_fn`, with a width of about `init_scale`. As
    with any `AutoContinuous`, `TraceMeanField_ELBO` is wrong if latents are constrained: its KL
    from a Delta (pyro-ppl 1.9.2, `distributions/kl.py`) leaves out the Jacobian.

    Args:
        model: a Pyro model with a fixed structure and continuous latents only.
        family: the family of all conditionals: one number on the real line with `rsample`, such as
            `Normal`, `StudentT`, `Spline` or `Mixture(Normal(), 4)`.
        ordering: the order of the elements of the latent vector and their dependencies: an
            `Ordering`; "model" for the model's graph; or None, with which each element depends on
            all earlier elements, in the order of the model's statements.
        hidden_features: the widths of the MADE's hidden layers; by default two layers of 64 units,
            or of 4 units for each distinct set of dependencies if that is more. If layers have
            fewer units than there are sets, an element whose set has no unit depends on other
            elements only linearly, by the direct connections.
        init_loc_fn: see Pyro's documentation of autoguides.
        init_scale: the initial scale of the posterior, in unconstrained space.

    Raises:
        ValueError: if the family or an argument is invalid; at the first call, if a latent is
            discrete or inside a subsampled plate, or the ordering has another length.

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
            ordering = Ordering.from_graph(_eliminate(self._neighbors(*args, **kwargs)))
        factorization = Factorization(self.latent_dim, self._family, ordering=ordering)
        hidden_features = self._hidden_features
        if hidden_features is None:
            sets = torch.unique(factorization.dependencies, dim=0)
            hidden_features = (max(64, 4 * sets.shape[0]),) * 2
        self.network = MADE(factorization, hidden_features=hidden_features).to(loc)
        for layer in (self.network.head, self.network.direct):
            if layer is not None:  # biases stay, since components of a mixture have to differ
                nn.init.zeros_(layer.weight)

    def _neighbors(self, *args: Any, **kwargs: Any) -> Tensor:
        """Whether two elements of the latent vector enter one factor of the joint: (n, n) bool."""
        shapes = self._unconstrained_shapes
        depends: Any = poutine.block(get_dependencies)(self.model, args, kwargs)
        prior = poutine.block(poutine.trace(self.model).get_trace)(*args, **kwargs)
        values = {name: prior.nodes[name]["value"].detach().requires_grad_() for name in shapes}
        with torch.enable_grad():
            conditioned = poutine.trace(poutine.condition(self.model, data=values))
            trace: Any = poutine.block(conditioned.get_trace)(*args, **kwargs)
            trace.compute_log_prob()
        ends = accumulate((shape.numel() for shape in shapes.values()), initial=0)
        elements = {
            name: torch.arange(*part) for name, part in zip(shapes, pairwise(ends), strict=True)
        }
        frames_of = {name: trace.nodes[name]["cond_indep_stack"] for name in shapes}
        # By plate, the index of the slice of each element, or -1 outside the plate: (n,).
        slices: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            site = trace.nodes[name]
            event_dim = len(shape) - (site["value"].dim() - site["fn"].event_dim)
            for frame in frames_of[name]:
                index = torch.arange(frame.size).reshape(-1, *(event_dim - frame.dim - 1) * (1,))
                slice_of = slices.setdefault(frame.name, torch.full((self.latent_dim,), -1))
                slice_of[elements[name]] = index.expand(shape).flatten()
        result = torch.zeros(self.latent_dim, self.latent_dim, dtype=torch.bool)
        for name, sources in depends["prior_dependencies"].items():
            latents = [source for source in sources if source in elements]
            parts = [elements[latent] for latent in latents]
            inputs = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)  # (k,)
            pairs = torch.ones(inputs.shape[0], inputs.shape[0], dtype=torch.bool)
            for frame in trace.nodes[name]["cond_indep_stack"]:
                inside = [trace.nodes[latent] for latent in latents if frame in frames_of[latent]]
                if inside and not _combines_slices(trace.nodes[name], frame, inside):
                    slice_of = slices[frame.name][inputs]
                    is_outside = slice_of < 0
                    is_same = slice_of == slice_of[:, None]
                    pairs &= is_same | is_outside | is_outside[:, None]
            result[inputs[:, None], inputs] |= pairs
        return result

    def get_base_dist(self) -> AutoregressiveDistribution:
        """The autoregressive distribution of z: event_shape (latent_dim,)."""
        return self.network.condition()

    def get_transform(self, *args: Any, **kwargs: Any) -> AffineTransform:
        """The transform from z to the unconstrained latents, `loc + scale * z`."""
        return AffineTransform(self.loc, self.scale, event_dim=1)

    def get_posterior(self, *args: Any, **kwargs: Any) -> dist.TransformedDistribution:
        """The distribution of the unconstrained latents: event_shape (latent_dim,)."""
        transform = self.get_transform(*args, **kwargs)
        return dist.TransformedDistribution(self.get_base_dist(), transform)

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The median of each latent by name, of the latent's shape, estimated as in `quantiles`."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, **kwargs).items()}

    @torch.no_grad()
    def quantiles(
        self, quantiles: Sequence[float] | Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The quantiles of each latent by name, estimated from 10,000 draws.

        They are computed elementwise in unconstrained space and then mapped to the support.

        Args:
            quantiles: numbers within [0, 1].
            args: the arguments of the model.
            kwargs: the keyword arguments of the model.

        Returns:
            for each latent, (number of quantiles, *shape of the latent).

        Raises:
            ValueError: if `quantiles` is not a vector of numbers within [0, 1].
        """
        levels = as_tensor(quantiles, "quantiles")
        is_valid = (levels >= 0) & (levels <= 1)
        if levels.dim() != 1 or not (is_valid.any() and is_valid.all()):
            raise ValueError(
                f"quantiles: expected numbers within [0, 1], got {described(quantiles)}"
            )
        draws = self.get_posterior(*args, **kwargs).sample((_NUM_DRAWS,))
        levels = levels.to(draws)
        result: dict[str, list[Tensor]] = {}
        for latents in zip(draws.quantile(levels, 0), draws.quantile(1 - levels, 0), strict=True):
            upward, downward = map(self._unpack_latent, latents)
            for (site, direct), (_, mirrored) in zip(upward, downward, strict=True):
                transform = biject_to(site["fn"].support)
                value = transform(mirrored if _is_decreasing(transform) else direct)
                result.setdefault(site["name"], []).append(value)
        return {name: torch.stack(values) for name, values in result.items()}


def _is_decreasing(transform: Transform) -> bool:
    """Whether a transform is elementwise and decreasing, as to a support with an upper end only."""
    try:
        return bool((torch.as_tensor(transform.sign) < 0).all())
    except NotImplementedError:  # it is not elementwise
        return False


def _combines_slices(factor: Any, plate: Any, latents: Sequence[Any]) -> bool:
    """Whether a factor's slices of a plate depend on latents of other slices.

    If they do not, multiplying the slices of its log-probability by weights multiplies the
    gradients of the latents in each slice by the same weights. This is checked at a draw.
    """
    log_prob, values = factor["log_prob"], [latent["value"] for latent in latents]
    if not log_prob.requires_grad:
        return False
    weights = torch.rand(plate.size).to(log_prob).reshape(-1, *(1,) * (-plate.dim - 1))

    def gradients(total: Tensor) -> Sequence[Tensor]:
        return torch.autograd.grad(total, values, retain_graph=True, materialize_grads=True)

    for latent, plain, weighted in zip(
        latents, gradients(log_prob.sum()), gradients((weights * log_prob).sum()), strict=True
    ):
        factors = weights.reshape((*weights.shape, *(1,) * latent["fn"].event_dim))
        if not torch.allclose(weighted, factors * plain, rtol=1e-3, atol=1e-6):
            return True
    return False


def _eliminate(neighbors: Tensor) -> Tensor:
    """The parents of each element of a Markov random field, (n, n) bool, by minimum degree."""
    edges = neighbors.clone().fill_diagonal_(False)
    parents, degrees = torch.zeros_like(edges), edges.sum(-1)
    for _ in range(edges.shape[0]):
        node = edges.shape[0] - 1 - int(degrees.flip(0).argmin())  # the last one of minimum degree
        adjacent = edges[node].nonzero().squeeze(-1)
        parents[node, adjacent] = True
        edges[node], edges[:, node] = False, False
        edges[adjacent[:, None], adjacent] = True
        edges[adjacent, adjacent] = False
        degrees[adjacent] = edges[adjacent].sum(-1)
        degrees[node] = edges.shape[0]  # eliminated: higher than all remaining degrees
    return parents
