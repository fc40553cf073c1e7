"""Many runs from one file: variants, launchers, status of each run, display of all.

It neither trains a run (`training` does) nor compares runs (`reports` does).
"""
