"""Algorithms of our own, each an SB3 subclass that works without the rest of the toolkit."""

from toolkit.algorithms.double_dqn import DoubleDQN

__all__ = ["DoubleDQN"]
