"""Gymnasium wrappers that a config names: rewards, action masks, random first actions, Atari preprocessing.

How wrappers are stacked around an environment is in `toolkit.envs.factory`.
"""
