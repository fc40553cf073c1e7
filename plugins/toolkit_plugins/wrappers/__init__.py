"""Gymnasium wrappers that a config names: rewards, action masks, random first actions, Atari preprocessing."""
