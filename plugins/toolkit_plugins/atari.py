"""Stable-Baselines3's preprocessing of Atari games, which without OpenCV is missed here and not at the first frame."""

import cv2  # noqa: F401
from stable_baselines3.common.atari_wrappers import AtariWrapper

__all__ = ["AtariWrapper"]
