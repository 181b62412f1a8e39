"""Words that match a pattern, drawn from a character model: by the rule, and by conditioning on it.

    python examples/constrained_text.py --pattern "in.*ing"

The model learns the words of a text, by default of Python's own documentation. Under the rule, each
symbol is drawn from the symbols that can still lead to a match. This is local: it ignores how
likely a match is after a symbol. `ad.sampling.smc` draws words of the model, given that they match.
Prints words without the rule and of both kinds, and how many of them are words of the text. Needs
tqdm.
"""

import argparse
import re
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor

import ardist as ad

LENGTH, SYMBOLS = 16, ".abcdefghijklmnopqrstuvwxyz"  # the first one ends a word


def words_of(text: str) -> list[str]:
    """The distinct lower-case words of a text, except for parts of names."""
    found = re.findall(r"(?<![\w.'`-])[a-z]+(?![\w'`(-])", text)
    return sorted({word for word in found if len(word) < LENGTH})


def encode(words: list[str]) -> Tensor:
    """Words as symbols, (number, LENGTH), with an end and padding after it."""
    return torch.tensor([[*map(SYMBOLS.index, word.ljust(LENGTH, "."))] for word in words])


def decode(events: Tensor) -> list[str]:
    """The words of symbols, (number, LENGTH)."""
    return ["".join(SYMBOLS[i] for i in event).rstrip(".") for event in events.tolist()]


def describe(name: str, words: list[str], known: set[str]) -> None:
    """Prints the share of words that occur in the text, and the first distinct words."""
    share = sum(word in known for word in words) / len(words)
    print(f"{name}: {share:.0%} are words of the text\n  {' '.join([*dict.fromkeys(words)][:10])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pattern", default="in.*ing", help="a regular expression")
    parser.add_argument("--data", type=Path, help="a text in place of Python's documentation")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--draws", type=int, default=1000, help="of each kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    text = args.data.read_text() if args.data else "\n".join(topics.values())
    words = words_of(text)
    fac = ad.Factorization(LENGTH, ad.families.Categorical(len(SYMBOLS)), end=0)
    net = ad.networks.RNN(fac, hidden_size=128)
    ad.training.fit(net, encode(words), lr=3e-3, max_epochs=args.epochs, seed=args.seed)
    p, rule = net.condition(), ad.rules.Automaton.regex(args.pattern, SYMBOLS, end=0)
    share = sum(bool(re.fullmatch(args.pattern, word)) for word in words) / len(words)
    print(f"{len(words):,} words, {share:.2%} of which match {args.pattern!r}")
    describe("Without the rule", decode(p.sample((args.draws,))), set(words))
    describe("By the rule", decode(p.with_rule(rule).sample((args.draws,))), set(words))
    found = ad.sampling.smc(p, rule, args.draws)
    print(found)
    chosen = torch.multinomial(found.log_weight.exp(), args.draws, replacement=True)
    describe("Given that a word matches", decode(found.value[chosen]), set(words))


if __name__ == "__main__":
    main()
