"""What users do with a trained run: greedy episodes, videos, live window, learning curves, networks, notebook page.

Comparisons of many runs are in `reports`.
"""
