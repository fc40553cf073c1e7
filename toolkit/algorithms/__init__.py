"""Double DQN and its family: SB3 subclasses that import SB3 and torch alone.

Configs name them by entry points; building a model from a config is in `training`.
"""

from toolkit.algorithms.double_dqn import DoubleDQN
from toolkit.algorithms.pqn import PQN
from toolkit.algorithms.rainbow import Rainbow

__all__ = ["PQN", "DoubleDQN", "Rainbow"]
