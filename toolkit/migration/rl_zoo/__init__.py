"""An entry of RL Zoo's hyperparameters to a config.

Its files are parsed and never evaluated.
"""
