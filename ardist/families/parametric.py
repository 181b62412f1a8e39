"""A family from any distribution class of torch or Pyro."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, transform_to

from ardist.families.base import Family
from ardist.families.implicit import attached
from ardist.families.links import Link
from ardist.shapes import as_callable, as_size, check_type, described

# Parameters that say the same: a fixed one is kept, else the first that the class has.
_ALTERNATIVES = (
    ("logits", "probs"),
    ("scale_tril", "covariance_matrix", "precision_matrix"),
    ("gate_logits", "gate"),
)


class Parametric(Family):
    """The family of a distribution class: its parameters are the network's reals through links.

    Each parameter's link is `transform_to` of its constraint in `arg_constraints`; of several
    that say the same, `logits` and `scale_tril` are taken.

    It has `rsample` where the class has it and the gradient of a given draw can be told: where
    the class has a differentiable CDF, is one of Gamma, Beta, Dirichlet, MultivariateNormal and
    those derived from them, or a bijective transform of any of these.

    Args:
        cls: a distribution class of torch or Pyro.
        event_shape: shape of its events.
        links: by parameter, a map from unconstrained reals to the parameter, in place of
            `transform_to`. It keeps the shape.
        fixed: by parameter, a constant.
        shapes: by parameter, its shape for one event, where the event's shape does not give it.

    Raises:
        ValueError: where a name is no parameter, a shape cannot be known, or the support moves
            with the parameters (as the Uniform's does: nothing outside it could be scored).

    >>> import torch, ardist as ad
    >>> import pyro.distributions as dist
    >>> family = ad.families.Parametric(dist.Dirichlet, event_shape=(3,))
    >>> family.num_params, family(torch.zeros(5, 3)).event_shape
    (3, torch.Size([3]))
    """

    def __init__(
        self,
        cls: type[Distribution],
        event_shape: Sequence[int] = (),
        links: Mapping[str, Link] | None = None,
        fixed: Mapping[str, Any] | None = None,
        shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if not (isinstance(cls, type) and issubclass(cls, Distribution)):
            raise ValueError(f"cls: expected a distribution class, got {described(cls)}")
        named = {"links": links, "fixed": fixed, "shapes": shapes}
        for argument, values in named.items():
            if values is not None:
                check_type(values, Mapping, argument)
        self.cls = cls
        self._event_shape = as_size(event_shape, "event_shape")
        self.links = {name: as_callable(link, "links") for name, link in (links or {}).items()}
        self.fixed = dict(fixed or {})
        self.shapes = {name: as_size(shape, "shapes") for name, shape in (shapes or {}).items()}
        constraint_of = _free_parameters(cls, self.fixed)
        for argument, names in (("links", self.links), ("shapes", self.shapes)):
            if unknown := sorted(set(names) - set(constraint_of)):
                raise ValueError(
                    f"{argument}: expected free parameters of {cls.__name__}, of "
                    f"{sorted(constraint_of)}, got {unknown}"
                )
        self._sizes: list[int] = []
        self._makers: list[tuple[str, torch.Size, Link]] = []
        for name, constraint in constraint_of.items():
            if constraint.is_discrete:
                raise ValueError(f"fixed: {cls.__name__}'s {name} is discrete; give it by fixed=")
            shape = self._shape_of(name, constraint)
            if name in self.links:
                link: Link = self.links[name]
            else:
                try:
                    transform = transform_to(constraint)
                except NotImplementedError as error:
                    raise ValueError(
                        f"links: torch has no transform to {constraint}, where {cls.__name__}'s "
                        f"{name} lies; give one by links= or the parameter by fixed="
                    ) from error
                link, shape = transform, torch.Size(transform.inverse_shape(shape))
            self._makers.append((name, shape, link))
            self._sizes.append(math.prod(shape))
        self._num_params = sum(self._sizes)
        if self.num_params == 0:
            raise ValueError(f"fixed: expected a free parameter of {cls.__name__}, got none")
        generator = torch.Generator().manual_seed(0)
        try:
            ours, other = (self(torch.randn(self.num_params, generator=generator)) for _ in "12")
        except Exception as error:
            raise ValueError(
                f"fixed: {cls.__name__} is not made by {sorted({*constraint_of, *self.fixed})}: "
                f"{error}; give what it takes by fixed="
            ) from error
        if ours.event_shape != self.event_shape:
            raise ValueError(
                f"event_shape: {cls.__name__} has events of shape {tuple(ours.event_shape)}, "
                f"got {tuple(self.event_shape)}"
            )
        self._support: constraints.Constraint = ours.support  # type: ignore[assignment]
        if _describe(ours.support) != _describe(other.support):
            raise ValueError(
                f"cls: expected a distribution whose support is the same for all parameters, "
                f"got {cls.__name__}; give the parameters that move it by fixed="
            )
        self._has_rsample = ours.has_rsample and self._trial(attached) == "differentiable"
        cdf = "absent" if self.event_shape else self._trial(lambda made, value: made.cdf(value))
        self._has_cdf, self._has_cdf_gradient = cdf != "absent", cdf == "differentiable"
        self._needs_double = self._is_scored_in_double()  # type: ignore[misc]

    @property
    def event_shape(self) -> torch.Size:
        return self._event_shape

    @property
    def num_params(self) -> int:
        return self._num_params

    @property
    def support(self) -> constraints.Constraint:
        return self._support

    @property
    def has_rsample(self) -> bool:
        return self._has_rsample

    @property
    def has_cdf(self) -> bool:
        return self._has_cdf or super().has_cdf

    @property
    def has_cdf_gradient(self) -> bool:
        return self._has_cdf_gradient

    def _trial(self, function: Callable[[Distribution, Tensor], Tensor]) -> str:
        """Whether a function of a conditional and its value is there, and differentiable."""
        params = torch.zeros(self.num_params, requires_grad=True)
        with torch.enable_grad():
            try:
                result = function(self(params), self.placeholder())
            except NotImplementedError:
                return "absent"
            try:
                torch.autograd.grad(result.sum(), params)
            except RuntimeError:  # torch's word for a derivative that it does not have
                return "there"
        return "differentiable"

    def _is_scored_in_double(self) -> bool:
        """Whether nothing inside is of float32 only."""
        try:
            self(torch.zeros(self.num_params, dtype=torch.float64)).log_prob(
                self.placeholder().double()
            )
        except (RuntimeError, NotImplementedError):
            return False
        return not any(isinstance(link, nn.Module) for _, _, link in self._makers)

    def _shape_of(self, name: str, constraint: Any) -> torch.Size:
        if name in self.shapes:
            return self.shapes[name]
        dims = constraint.event_dim
        if dims == 2 and len(self.event_shape) == 1:  # a matrix that acts on a vector event
            return self.event_shape * 2
        if dims > len(self.event_shape):
            raise ValueError(
                f"shapes: the shape of {self.cls.__name__}'s {name} does not follow from "
                f"event_shape {tuple(self.event_shape)}; give it by shapes={{{name!r}: ...}}"
            )
        return self.event_shape

    def __call__(self, params: Tensor) -> Distribution:
        arguments = {name: _like(value, params) for name, value in self.fixed.items()}
        for (name, shape, link), raw in zip(
            self._makers, params.split(self._sizes, -1), strict=True
        ):
            arguments[name] = link(raw.reshape((*params.shape[:-1], *shape)))
        distribution = self.cls(**arguments, validate_args=False)
        spare = len(distribution.batch_shape) - (params.dim() - 1)
        return Independent(distribution, spare, validate_args=False) if spare else distribution

    def _key(self) -> tuple[Any, ...]:
        fixed = ((k, id(v) if isinstance(v, Tensor) else v) for k, v in sorted(self.fixed.items()))
        return (
            self.cls,
            self.event_shape,
            tuple(sorted(self.links.items(), key=lambda item: item[0])),
            tuple(fixed),
            tuple(sorted(self.shapes.items())),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parametric) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        shape = f", event_shape={tuple(self.event_shape)}" if self.event_shape else ""
        return f"Parametric({self.cls.__name__}{shape})"


def _like(value: Any, params: Tensor) -> Any:
    """A real constant as a tensor of the dtype and on the device of the parameters."""
    if isinstance(value, float) or (isinstance(value, Tensor) and value.is_floating_point()):
        return torch.as_tensor(value, dtype=params.dtype, device=params.device)
    return value.to(params.device) if isinstance(value, Tensor) else value


def _free_parameters(cls: type[Distribution], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Constraints of the constructor's parameters that the network has to give."""
    arguments = set(inspect.signature(cls.__init__).parameters)
    declared = getattr(cls, "arg_constraints", None)
    if not isinstance(declared, dict):
        raise ValueError(
            f"cls: expected a distribution class whose arg_constraints are the same for all "
            f"parameters, got {cls.__name__}"
        )
    unknown = set(fixed) - arguments
    if unknown:
        raise ValueError(f"fixed: {cls.__name__} takes no {sorted(unknown)}")
    names = [name for name in declared if name in arguments]
    for group in _ALTERNATIVES:
        offered = [name for name in group if name in names]
        kept = [name for name in offered if name in fixed] or offered[:1]
        names = [name for name in names if name not in offered or name in kept]
    return {name: declared[name] for name in names if name not in fixed}


def _describe(value: Any) -> Any:
    """A constraint as plain values, so that two can be compared."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, constraints.Constraint):
        state = sorted(vars(value).items())
        return (type(value).__name__, [(name, _describe(part)) for name, part in state])
    if isinstance(value, (list, tuple)):
        return [_describe(part) for part in value]
    return value
