"""Searches for config values with Optuna: search space, study, workers, results, plots.

The trainings of a trial are ordinary runs. How these are trained is in `training`.
"""
