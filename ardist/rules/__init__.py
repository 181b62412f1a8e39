"""Rules about which values the blocks of an event may have."""

from ardist.rules.automaton import Automaton
from ardist.rules.base import At, Interval, Rule
from ardist.rules.columns import When, Within
from ardist.rules.conjunction import All
from ardist.rules.distinct import Distinct
from ardist.rules.end import End
from ardist.rules.total import Sum

__all__ = ["All", "At", "Automaton", "Distinct", "End", "Interval", "Rule", "Sum", "When", "Within"]
