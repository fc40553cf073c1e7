"""An environment config to an SB3 `VecEnv` that knows raw returns and whose episodes can be played again.

Reward wrappers are plugins; they are in `toolkit_plugins`.
"""
