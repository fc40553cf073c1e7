"""The whole training state as plain data: captured, written, read and restored, without pickle.

When training starts, stops and resumes is decided in `training`.
"""
