"""Tuning: search the values of a config with Optuna, in a study of trials."""
