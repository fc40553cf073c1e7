"""Reports: compare runs over seeds with confidence intervals, and write what they show."""
