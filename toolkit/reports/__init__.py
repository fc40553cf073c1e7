"""Runs compared: what they measured, what that allows to say, and a report of it."""
