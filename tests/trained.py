"""Former names of what `small_runs` has."""

from small_runs import ALGORITHMS, StopAt, find_differences, make_config, train_with_interruptions

config, differences, stop_and_go_on = make_config, find_differences, train_with_interruptions
__all__ = ["ALGORITHMS", "StopAt", "config", "differences", "stop_and_go_on"]
