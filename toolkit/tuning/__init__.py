"""A search for the values of a config: its file, its study, its trials, what it leaves behind."""
