"""The components that ship with the toolkit; each is found by its entry point, as anybody's are."""
