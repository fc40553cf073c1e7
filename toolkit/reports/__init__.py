"""Comparison of runs over seeds: statistics with intervals, tables, figures, a page in HTML and Markdown.

It only reads runs. What one run shows is in `evaluation`.
"""
