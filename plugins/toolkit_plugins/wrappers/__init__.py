"""Gymnasium wrappers that a config names: rewards, action masks, random first actions, spaces that start
at 0, Atari preprocessing.

How wrappers are stacked around an environment is in `toolkit.envs.factory`.
"""
