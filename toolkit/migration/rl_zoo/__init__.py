"""Conversion of RL Zoo's hyperparameters to configs. Its files are parsed and never evaluated."""
