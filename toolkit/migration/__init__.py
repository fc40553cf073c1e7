"""What users bring: RL Zoo's hyperparameters and agents, and models that SB3 saved.

Nothing in a file from elsewhere is executed.
"""
