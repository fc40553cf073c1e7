"""The toolkit's own components: callbacks, launchers, loggers, schedules and wrappers, found by entry points.

Base classes of plugins are in `toolkit.training.callbacks` and `toolkit.experiments.launcher`.
"""
