"""A resolved config to a finished run: trainer, run directory, SB3 model, callbacks, loggers.

What a snapshot holds is in `snapshots`; environments are built in `envs`.
"""
