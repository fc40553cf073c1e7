"""Stable-Baselines3's preprocessing of Atari games.

The import of OpenCV makes a missing extra an error when the config is checked, not at the first frame.
"""

import cv2  # noqa: F401
from stable_baselines3.common.atari_wrappers import AtariWrapper

__all__ = ["AtariWrapper"]
