"""Default widths of networks, which follow from the factorization."""

from ardist.factorization import Factorization


def hidden_layers(num_features: int) -> tuple[int, int]:
    """Widths of two layers: four times the number of features that they read, within 256 and 512.

    On small tables narrower layers were worse by up to a tenth of a nat per column.
    """
    width = _power_of_two(4 * num_features, 256, 512)
    return width, width


def block_width(factorization: Factorization) -> int:
    """Twice the number of features of the widest block, within 64 and 256."""
    return _power_of_two(2 * max(factorization.layout.sizes["feature"], default=0), 64, 256)


def _power_of_two(number: int, low: int, high: int) -> int:
    """The smallest power of two that is at least `number`, clamped to `low` and `high`."""
    return min(max(1 << max(number - 1, 0).bit_length(), low), high)
