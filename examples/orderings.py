"""The named orderings: printed on a small grid, and drawn into one picture by matplotlib."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import ardist as ad

ORDERINGS = [
    ad.Ordering.raster(),
    ad.Ordering.reverse(),
    ad.Ordering.column_major(),
    ad.Ordering.snake(),
    ad.Ordering.spiral(),
    ad.Ordering.hilbert(),
    ad.Ordering.random(0),
    ad.Ordering.diagonal(),
    ad.Ordering.checkerboard(),
    ad.Ordering.multiscale(3),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output"), help="for orderings.png")
    args = parser.parse_args()
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    for ordering, axes in zip(ORDERINGS, figure.subplots(2, 5).flat, strict=True):
        print(ordering, end="\n\n")
        ordering.plot((8, 8), axes)
    args.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output / "orderings.png", dpi=100)
    print(f"picture: {args.output / 'orderings.png'}")


if __name__ == "__main__":
    main()
