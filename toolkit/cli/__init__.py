"""The command line: one module per command or pair of commands, the text they print, plugin templates.

Commands parse arguments, call the packages below and print. Nothing imports this package.
"""
