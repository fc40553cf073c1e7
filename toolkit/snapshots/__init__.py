"""The whole training state as plain data without pickle: capture, archives on disk, restore, and checked weights.

`training` decides when a run starts, stops and resumes; `envs` replays episodes.
"""
