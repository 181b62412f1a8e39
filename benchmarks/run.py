"""Times ardist and its peers: `make bench`, or `python benchmarks/run.py [NAME ...]`.

ardist and a peer run in turn in one process. The result is the median ratio of their times, since
absolute times say little on a shared machine. In a turn, each runs for at least a tenth of a
second. The ratio of the first calls is reported separately. Every timed call includes all the
preparation of weights that it needs.
"""

import argparse
import platform
import warnings

import torch
from attention import gpt
from convolution import locally_masked, pixelcnn, wavenet
from fixed_point import fixed_points
from flows import flows
from gradients import gradients, gradients_of_many
from harness import compare, use
from import_time import import_time
from information import information
from limits import limits, recorded
from long_events import long_events
from masked import made_continuous, made_sampling, made_scoring, made_windows
from memory import memory
from recurrent import lstm
from rules import gpt_rules, made_rules
from scoring import scoring

warnings.filterwarnings("ignore")  # the peers' own, about deprecated calls

CASES = {
    case.__name__: case
    for case in (
        made_sampling,
        made_scoring,
        made_continuous,
        made_windows,
        fixed_points,
        gradients,
        gradients_of_many,
        lstm,
        gpt,
        wavenet,
        pixelcnn,
        locally_masked,
        scoring,
        memory,
        long_events,
        limits,
        recorded,
        made_rules,
        gpt_rules,
        information,
        flows,
        import_time,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="cuda or mps; not tried, for want of one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    use(args.device)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {args.device} of a {platform.machine()}, "
        f"{args.threads} threads, float32, "
        f"median of {args.rounds} rounds in turn"
    )
    for name in args.names or CASES:
        for case in CASES[name]():
            compare(*case, rounds=args.rounds)


if __name__ == "__main__":
    main()
