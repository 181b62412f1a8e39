"""A family made from a distribution class of torch or Pyro."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints, transform_to

from ardist.families.base import Family
from ardist.families.implicit import reparameterized
from ardist.families.links import Link
from ardist.shapes import as_callable, as_size, check_type, described

# Alternative parameters. A fixed one is used, else the first that the class has.
_ALTERNATIVES = (
    ("logits", "probs"),
    ("scale_tril", "covariance_matrix", "precision_matrix"),
    ("gate_logits", "gate"),
)


class Parametric(Family):
    """The family of a distribution class. A network gives its parameters through links.

    The default link of a parameter is `transform_to` of its constraint in `arg_constraints`. If
    the class has alternative parameters, the family uses `logits` and `scale_tril`.

    The family has `rsample` if the class has it and the gradient of a given draw is known. This
    holds for a class with a differentiable CDF, for Gamma, Beta, Dirichlet, MultivariateNormal
    and their subclasses, and for bijective transforms of these.

    Args:
        cls: a distribution class of torch or Pyro.
        event_shape: shape of its events.
        links: maps from unconstrained reals to parameters, by name, instead of `transform_to`. A
            link must not change the shape.
        fixed: constants for parameters, by name.
        shapes: shapes of parameters for one event, by name, if event_shape does not determine them.

    Raises:
        ValueError: if a name is not a parameter of the class, a shape is not known, or the support
            depends on the parameters, as in Uniform: a value outside the support could not be
            scored.

    >>> import torch, ardist as ad
    >>> import pyro.distributions as dist
    >>> family = ad.families.Parametric(dist.Dirichlet, event_shape=(3,))
    >>> family.num_params, family(torch.zeros(5, 3)).event_shape
    (3, torch.Size([3]))
    """

    # Set by `__init__`.
    event_shape = torch.Size()
    num_params = 0
    support: constraints.Constraint = constraints.real
    has_rsample = has_cdf = has_cdf_gradient = needs_double = False

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
        self.event_shape = as_size(event_shape, "event_shape")
        self.links = {name: as_callable(link, "links") for name, link in (links or {}).items()}
        self.fixed = dict(fixed or {})
        self.shapes = {name: as_size(shape, "shapes") for name, shape in (shapes or {}).items()}
        constraint_of = _free_parameters(cls, self.fixed)
        for argument, names in (("links", self.links), ("shapes", self.shapes)):
            if unknown := sorted(set(names) - set(constraint_of)):
                raise ValueError(
                    f"{argument}: expected free parameters of {cls.__name__}, which are "
                    f"{sorted(constraint_of)}, got {unknown}"
                )
        self._makers = [self._maker_of(name, part) for name, part in constraint_of.items()]
        self._sizes = [math.prod(shape) for _, shape, _ in self._makers]
        self.num_params = sum(self._sizes)
        if self.num_params == 0:
            raise ValueError(
                f"fixed: expected to leave a parameter of {cls.__name__} free, got constants for "
                f"all of them"
            )
        example = self._example({*constraint_of, *self.fixed})
        self.support = example.support  # type: ignore[assignment]
        self.has_rsample = example.has_rsample and self._try(reparameterized) == "differentiable"
        cdf = "absent" if self.event_shape else self._try(lambda made, value: made.cdf(value))
        self.has_cdf = cdf != "absent" or self._ordered_states() is not None
        self.has_cdf_gradient = cdf == "differentiable"
        self.needs_double = self._supports_double()

    def _maker_of(self, name: str, constraint: Any) -> tuple[str, torch.Size, Link]:
        """The name of a parameter, the shape of its unconstrained reals, and the map from them."""
        if constraint.is_discrete:
            raise ValueError(
                f"fixed: expected a constant for the discrete {name} of {self.cls.__name__}, got "
                f"none; fixed={{{name!r}: ...}} gives it"
            )
        shape = self._shape_of(name, constraint)
        if name in self.links:
            return name, shape, self.links[name]
        try:
            transform = transform_to(constraint)
        except NotImplementedError as error:
            raise ValueError(
                f"links: expected a link for {name} of {self.cls.__name__}, since torch has no "
                f"transform to {constraint}, got none; links={{{name!r}: ...}} gives it"
            ) from error
        return name, torch.Size(transform.inverse_shape(shape)), transform

    def _example(self, arguments: set[str]) -> Distribution:
        """A conditional, after checks of its event_shape and its support."""
        name, generator = self.cls.__name__, torch.Generator().manual_seed(0)
        try:
            params = torch.randn(2, self.num_params, generator=generator, device="cpu")
            ours, other = map(self, params)
        except Exception as error:
            raise ValueError(
                f"fixed: expected all arguments that {name} needs, got {sorted(arguments)}, with "
                f"which it raises: {error}; fixed= gives others"
            ) from error
        if ours.event_shape != self.event_shape:
            raise ValueError(
                f"event_shape: expected {tuple(ours.event_shape)}, the shape of an event of "
                f"{name}, got {tuple(self.event_shape)}"
            )
        if _describe(ours.support) != _describe(other.support):
            raise ValueError(
                f"cls: expected a distribution whose support is the same for all parameters, got "
                f"{name}; fixed= gives constants for the parameters that change it"
            )
        return ours

    def _try(self, function: Callable[[Distribution, Tensor], Tensor]) -> str:
        """Whether a function of a conditional is "absent", "present" or "differentiable"."""
        params = torch.zeros(self.num_params, requires_grad=True)
        with torch.enable_grad():
            try:
                result = function(self(params), self.placeholder())
            except NotImplementedError:
                return "absent"
            try:
                torch.autograd.grad(result.sum(), params)
            except RuntimeError:  # torch has no derivative
                return "present"
        return "differentiable"

    def _supports_double(self) -> bool:
        """Whether no part of the family requires float32."""
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
        if dims == 2 and len(self.event_shape) == 1:  # a matrix for a vector event
            return self.event_shape * 2
        if dims > len(self.event_shape):
            raise ValueError(
                f"shapes: expected the shape of {name} of {self.cls.__name__}, which does not "
                f"follow from event_shape {tuple(self.event_shape)}, got none; "
                f"shapes={{{name!r}: ...}} gives it"
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
    """A constant in the dtype and on the device of the parameters."""
    if isinstance(value, float) or (isinstance(value, Tensor) and value.is_floating_point()):
        return torch.as_tensor(value, dtype=params.dtype, device=params.device)
    return value.to(params.device) if isinstance(value, Tensor) else value


def _free_parameters(cls: type[Distribution], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The constraints of the parameters that the network gives, by name."""
    arguments = set(inspect.signature(cls.__init__).parameters)
    declared = getattr(cls, "arg_constraints", None)
    if not isinstance(declared, dict):
        raise ValueError(
            f"cls: expected a distribution class whose arg_constraints is a dict, got a "
            f"{type(declared).__name__} in {cls.__name__}"
        )
    unknown = set(fixed) - arguments
    if unknown:
        raise ValueError(
            f"fixed: expected arguments of {cls.__name__}, which are "
            f"{sorted(arguments - {'self', 'validate_args'})}, got {sorted(unknown)}"
        )
    names = [name for name in declared if name in arguments]
    for group in _ALTERNATIVES:
        offered = [name for name in group if name in names]
        kept = [name for name in offered if name in fixed] or offered[:1]
        names = [name for name in names if name not in offered or name in kept]
    return {name: declared[name] for name in names if name not in fixed}


def _describe(value: Any) -> Any:
    """A constraint as plain values, which can be compared."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, constraints.Constraint):
        state = sorted(vars(value).items())
        return (type(value).__name__, [(name, _describe(part)) for name, part in state])
    if isinstance(value, (list, tuple)):
        return [_describe(part) for part in value]
    return value
